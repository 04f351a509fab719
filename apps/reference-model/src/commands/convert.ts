import { Option, type Command } from "commander";
import { filesBeside, loadCheckpoint } from "../checkpoint/load.js";
import { CHECKPOINT_DTYPES, saveCheckpoint, type CheckpointDType } from "../checkpoint/save.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { outputFolder } from "./output_option.js";
import { integerIn, modelOption, withDevice } from "./shared.js";

interface ConvertFlags extends ComponentsFlag {
  readonly model: string;
  readonly out: string;
  readonly dtype: CheckpointDType;
  readonly maxShardSize?: number;
}

/** `convert`: write a model folder in another precision, or in shards. */
export function convertCommand(program: Command): void {
  program
    .command("convert")
    .description("write a model folder again: in another precision, in shards or in one file")
    .addOption(modelOption())
    .addOption(componentsOption())
    .addOption(outputFolder("-o, --out <dir>", "the new folder").makeOptionMandatory())
    .addOption(
      new Option("--dtype <type>", "of the weights").choices(Object.keys(CHECKPOINT_DTYPES)).default("f32"),
    )
    .option("--max-shard-size <megabytes>", "split the weights into files of at most this size", integerIn(1))
    .action(async (flags: ConvertFlags) => {
      const components = await componentsOf(flags);
      await withDevice(async (gpu) => {
        const { model, json } = await loadCheckpoint(gpu, flags.model, { components });
        await saveCheckpoint(flags.out, model, json, {
          dtype: flags.dtype,
          files: await filesBeside(flags.model),
          ...(flags.maxShardSize === undefined ? {} : { maxShardBytes: flags.maxShardSize * 1e6 }),
        });
        model.dispose();
      });
    });
}
