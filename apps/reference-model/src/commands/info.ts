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
    .action(async (flags: ComponentsFlag & { model: string }) => {
      const components = await componentsOf(flags);
      await withDevice(async (gpu) => {
        const { info, features, limits } = gpu;
        const lines = [
          `adapter            ${info.name} (${info.vendor || "unknown vendor"}${info.software ? ", software" : ""})`,
          `features           f16 ${features.f16 ? "yes" : "no"}, subgroups ${features.subgroups ? `${features.subgroupMinSize} to ${features.subgroupMaxSize}` : "no"}, timestamps ${features.timestampQuery ? "yes" : "no"}`,
          `limits             ${Math.round(limits.maxStorageBufferBindingSize / 2 ** 20)} MiB a binding, ${Math.round(limits.maxBufferSize / 2 ** 20)} MiB a buffer, ${limits.maxStorageBuffersPerShaderStage} buffers, ${limits.maxComputeWorkgroupStorageSize / 1024} KiB of workgroup memory`,
        ];
        const { config } = await readConfig(flags.model);
        const { model } = await loadCheckpoint(gpu, flags.model, { components });
        const { total, active } = model.countParameters();
        const state = model.createState({ maxLength: config.maxLength });
        lines.push(
          `model              ${config.family}, ${config.layers.length} layers, dim ${config.dim}, vocabulary ${config.vocabSize}`,
          `parameters         ${total} in all, ${Math.round(active)} active per token`,
          `cache              ${state.bytesPerToken} bytes per token`,
        );
        state.dispose();
        model.dispose();
        process.stdout.write(`${lines.join("\n")}\n`);
      });
    });
}
