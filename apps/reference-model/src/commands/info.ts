import type { Command } from "commander";
import { loadModel, type Checkpoint, type EncoderDecoderCheckpoint } from "../checkpoint/load.js";
import { adapterOption, adaptersOf, type AdapterFlag } from "./adapter_option.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { hasEncoder } from "./encoder_decoder.js";
import { loadingBar } from "./progress.js";
import { modelOption, withDevice } from "./shared.js";

/** What `info` says of a model. */
interface Described {
  readonly family: string;
  /** Blocks of a decoder-only model. */
  readonly layers?: number;
  readonly encoderLayers?: number;
  readonly decoderLayers?: number;
  readonly dim: number;
  readonly vocabSize: number;
  readonly maxLength: number;
  readonly parameters: number;
  readonly activeParameters: number;
  readonly cacheBytesPerToken: number;
  /** Of the encoder's text. */
  readonly contextBytesPerToken?: number | undefined;
}

function describe(loaded: Checkpoint | EncoderDecoderCheckpoint): Described {
  const { total: parameters, active: activeParameters } = loaded.model.countParameters();
  const [decoder, layers] = hasEncoder(loaded)
    ? [
        loaded.model.decoder,
        {
          encoderLayers: loaded.config.encoder.layers.length,
          decoderLayers: loaded.config.decoder.layers.length,
        },
      ]
    : [loaded.model, { layers: loaded.config.layers.length }];
  const { dim, vocabSize, maxLength } = decoder.config;
  const state = decoder.createState({ maxLength });
  const { bytesPerToken: cacheBytesPerToken } = state;
  state.dispose();
  const { family } = loaded.config;
  const { contextBytesPerToken } = hasEncoder(loaded) ? loaded.model : {};
  const figures = { parameters, activeParameters, cacheBytesPerToken, contextBytesPerToken };
  return { family, ...layers, dim, vocabSize, maxLength, ...figures };
}

/** `info`: the adapter and a model. */
export function infoCommand(program: Command): void {
  program
    .command("info")
    .description("the adapter, and a model's parameters and cache")
    .addOption(modelOption())
    .addOption(adapterOption())
    .addOption(componentsOption())
    .option("--json", "print one line of JSON: {adapter, model, adapters}")
    .action(async (flags: ComponentsFlag & AdapterFlag & { model: string; json?: true }) => {
      const components = await componentsOf(flags);
      const adapters = await adaptersOf(flags.adapter);
      const changes = adapters.map(({ path, factors, whole }) => ({
        path,
        modules: factors.length,
        ranks: [...new Set(factors.map(({ a }) => a.shape[0]!))].sort((x, y) => x - y),
        parameters:
          factors.reduce((n, { a, b }) => n + a.data.length + b.data.length, 0) +
          [...whole.values()].reduce((n, { data }) => n + data.length, 0),
      }));
      await withDevice(async (gpu) => {
        const { info, features, limits } = gpu;
        const loaded = await loadModel(gpu, flags.model, {
          ...loadingBar(flags.model),
          components,
          adapters,
          stored: true,
        });
        const model = describe(loaded);
        loaded.model.dispose();
        if (flags.json) {
          const adapter = { ...info, features, limits };
          process.stdout.write(`${JSON.stringify({ adapter, model, adapters: changes })}\n`);
          return;
        }
        const { family, layers, encoderLayers, decoderLayers, dim, vocabSize } = model;
        const context =
          model.contextBytesPerToken === undefined
            ? ""
            : `, and ${model.contextBytesPerToken} per token of the encoder's text`;
        const depth =
          layers === undefined
            ? `${encoderLayers} encoder and ${decoderLayers} decoder layers`
            : `${layers} layers`;
        const lines = [
          `adapter            ${info.name} (${info.vendor || "unknown vendor"}${info.software ? ", software" : ""})`,
          `features           f16 ${features.f16 ? "yes" : "no"}, subgroups ${features.subgroups ? `${features.subgroupMinSize} to ${features.subgroupMaxSize}` : "no"}, timestamps ${features.timestampQuery ? "yes" : "no"}`,
          `limits             ${Math.round(limits.maxStorageBufferBindingSize / 2 ** 20)} MiB a binding, ${Math.round(limits.maxBufferSize / 2 ** 20)} MiB a buffer, ${limits.maxStorageBuffersPerShaderStage} buffers, ${limits.maxComputeWorkgroupStorageSize / 1024} KiB of workgroup memory`,
          `model              ${family}, ${depth}, dim ${dim}, vocabulary ${vocabSize}`,
          `parameters         ${model.parameters} in all, ${Math.round(model.activeParameters)} active per token`,
          `cache              ${model.cacheBytesPerToken} bytes per token${context}`,
          ...changes.map(
            ({ path, modules, ranks, parameters: count }) =>
              `LoRA               ${path}: ${modules} modules, rank ${ranks.join(", ") || "none"}, ${count} parameters`,
          ),
        ];
        process.stdout.write(`${lines.join("\n")}\n`);
      });
    });
}
