import { Option, type Command } from "commander";
import { ConfigError } from "@x/kernels";
import {
  CHECKPOINT_DTYPES,
  filesBeside,
  loadCheckpoint,
  saveCheckpoint,
  type CheckpointDType,
} from "../checkpoint.js";
import { integer, modelOption, withDevice } from "./shared.js";

/** `convert`: write a model folder in another precision, or in shards. */
export function convertCommand(program: Command): void {
  program
    .command("convert")
    .description("write a model folder again: in another precision, in shards or in one file")
    .addOption(modelOption())
    .requiredOption("-o, --out <dir>", "the new folder")
    .addOption(
      new Option("--dtype <type>", "of the weights").choices(Object.keys(CHECKPOINT_DTYPES)).default("f32"),
    )
    .option("--max-shard-size <megabytes>", "split the weights into files of at most this size", integer)
    .action(async (flags: { model: string; out: string; dtype: CheckpointDType; maxShardSize?: number }) => {
      if (flags.maxShardSize !== undefined && flags.maxShardSize < 1)
        throw new ConfigError("--max-shard-size", `is ${flags.maxShardSize}; it must be at least 1`);
      await withDevice(async (gpu) => {
        const { model, json } = await loadCheckpoint(gpu, flags.model);
        await saveCheckpoint(flags.out, model, json, {
          dtype: flags.dtype,
          files: await filesBeside(flags.model),
          ...(flags.maxShardSize === undefined ? {} : { maxShardBytes: flags.maxShardSize * 1e6 }),
        });
        model.dispose();
      });
    });
}
