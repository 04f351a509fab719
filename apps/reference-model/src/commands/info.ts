import type { Command } from "commander";
import { loadModel, type Checkpoint, type EncoderDecoderCheckpoint } from "../checkpoint/load.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { hasEncoder } from "./encoder_decoder.js";
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
  const figures = { parameters, activeParameters, cacheBytesPerToken };
  return { family, ...layers, dim, vocabSize, maxLength, ...figures };
}

/** `info`: the adapter and a model. */
export function infoCommand(program: Command): void {
  program
    .command("info")
    .description("the adapter, and a model's parameters and cache")
    .addOption(modelOption())
    .addOption(componentsOption())
    .option("--json", "print one line of JSON: {adapter, model}")
    .action(async (flags: ComponentsFlag & { model: string; json?: true }) => {
      const components = await componentsOf(flags);
      await withDevice(async (gpu) => {
        const { info, features, limits } = gpu;
        const loaded = await loadModel(gpu, flags.model, { components, stored: true });
        const model = describe(loaded);
        loaded.model.dispose();
        if (flags.json) {
          const adapter = { ...info, features, limits };
          process.stdout.write(`${JSON.stringify({ adapter, model })}\n`);
          return;
        }
        const { family, layers, encoderLayers, decoderLayers, dim, vocabSize } = model;
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
          `cache              ${model.cacheBytesPerToken} bytes per token`,
        ];
        process.stdout.write(`${lines.join("\n")}\n`);
      });
    });
}
