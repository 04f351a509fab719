import type { Command } from "commander";
import { loadCheckpoint, readConfig } from "../checkpoint/load.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { modelOption, withDevice } from "./shared.js";

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
        const { config } = await readConfig(flags.model);
        const { model } = await loadCheckpoint(gpu, flags.model, { components, stored: true });
        const { total, active } = model.countParameters();
        const state = model.createState({ maxLength: config.maxLength });
        const { bytesPerToken } = state;
        state.dispose();
        model.dispose();
        const { family, dim, vocabSize, maxLength } = config;
        const layers = config.layers.length;
        if (flags.json) {
          const shape = { family, layers, dim, vocabSize, maxLength };
          const figures = { parameters: total, activeParameters: active, cacheBytesPerToken: bytesPerToken };
          const adapter = { ...info, features, limits };
          process.stdout.write(`${JSON.stringify({ adapter, model: { ...shape, ...figures } })}\n`);
          return;
        }
        const lines = [
          `adapter            ${info.name} (${info.vendor || "unknown vendor"}${info.software ? ", software" : ""})`,
          `features           f16 ${features.f16 ? "yes" : "no"}, subgroups ${features.subgroups ? `${features.subgroupMinSize} to ${features.subgroupMaxSize}` : "no"}, timestamps ${features.timestampQuery ? "yes" : "no"}`,
          `limits             ${Math.round(limits.maxStorageBufferBindingSize / 2 ** 20)} MiB a binding, ${Math.round(limits.maxBufferSize / 2 ** 20)} MiB a buffer, ${limits.maxStorageBuffersPerShaderStage} buffers, ${limits.maxComputeWorkgroupStorageSize / 1024} KiB of workgroup memory`,
          `model              ${family}, ${layers} layers, dim ${dim}, vocabulary ${vocabSize}`,
          `parameters         ${total} in all, ${Math.round(active)} active per token`,
          `cache              ${bytesPerToken} bytes per token`,
        ];
        process.stdout.write(`${lines.join("\n")}\n`);
      });
    });
}
