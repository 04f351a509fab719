import { join } from "node:path";
import { Option, type Command } from "commander";
import { ConfigError } from "@x/kernels";
import { makeFolder } from "../../checkpoint/files.js";
import { GGUF_TYPES, writeGguf, type GgufType } from "../../checkpoint/gguf/to_gguf.js";
import { assembleAny } from "../../checkpoint/assemble.js";
import { filesBeside } from "../../checkpoint/load.js";
import { CHECKPOINT_DTYPES, saveCheckpoint, type CheckpointDType } from "../../checkpoint/save.js";
import { modelSource } from "../../checkpoint/source.js";
import { QUANTS, type Quants } from "../../checkpoint/quantised.js";
import { mergedSource } from "../../checkpoint/adapter/adapted.js";
import type { ModelSource } from "../../checkpoint/stored.js";
import { adaptersOf } from "../adapter_option.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "../components_option.js";
import { convertQuantised } from "./quantised.js";
import { outputFolder } from "../output_option.js";
import { integerIn, modelOption, repeatable, withDevice } from "../shared.js";

interface ConvertFlags extends ComponentsFlag {
  readonly model: string;
  readonly out: string;
  readonly dtype: CheckpointDType;
  readonly maxShardSize?: number;
  readonly gguf?: GgufType;
  readonly quantize?: Quants;
  readonly text?: string;
  readonly mergeAdapter: readonly string[];
}

async function toGguf({ out, gguf }: ConvertFlags, source: ModelSource): Promise<void> {
  const file = join(out, "model.gguf");
  await makeFolder(out);
  for (const difference of await writeGguf(file, source, gguf!))
    process.stderr.write(`warning: ${difference}\n`);
}

/** `convert`: write a model folder in another precision, in shards, or as a GGUF file. */
export function convertCommand(program: Command): void {
  program
    .command("convert")
    .description(
      "write a model again: in another precision, quantised, in shards or in one file, or as a GGUF file",
    )
    .addOption(modelOption())
    .addOption(componentsOption())
    .addOption(outputFolder("-o, --out <dir>", "the new folder").makeOptionMandatory())
    .addOption(
      new Option("--dtype <type>", "of the weights").choices(Object.keys(CHECKPOINT_DTYPES)).default("f32"),
    )
    .option("--max-shard-size <megabytes>", "split the weights into files of at most this size", integerIn(1))
    .addOption(
      new Option(
        "--gguf <type>",
        "write model.gguf for llama.cpp: vectors in f32, matrices in f32, f16, 8 bits (Q8_0) or 4 (Q4_0)",
      )
        .choices(Object.keys(GGUF_TYPES))
        .conflicts(["dtype", "maxShardSize"]),
    )
    .addOption(
      new Option(
        "--quantize <bits>",
        "matrices in 8 or 4 bits, for this program: model.gguf where llama.cpp has the architecture, else a folder with blocks",
      )
        .choices(Object.keys(QUANTS))
        .conflicts(["dtype", "maxShardSize", "gguf"]),
    )
    .option("--text <path>", "with --quantize: measure the perplexity of this text before and after")
    .addOption(
      repeatable("--merge-adapter <dir>", "add a LoRA in a PEFT folder to the weights that are written"),
    )
    .action(async (flags: ConvertFlags) => {
      const { quantize, text, ...where } = flags;
      if (text !== undefined && quantize === undefined)
        throw new ConfigError("convert: --text", "is given without --quantize, whose cost it measures");
      const adapters = await adaptersOf(flags.mergeAdapter);
      const source = mergedSource(await modelSource(flags.model), adapters);
      if (quantize !== undefined) {
        const components = await componentsOf(flags);
        const lines = await convertQuantised({
          model: where.model,
          source,
          out: where.out,
          quantize,
          components,
          ...(text === undefined ? {} : { text }),
        });
        process.stdout.write(`${lines.join("\n")}\n`);
        return;
      }
      if (flags.gguf !== undefined) {
        await toGguf(flags, source);
        return;
      }
      const components = await componentsOf(flags);
      await withDevice(async (gpu) => {
        const { model, json } = await assembleAny(gpu, source, { components });
        await saveCheckpoint(flags.out, model, json, {
          dtype: flags.dtype,
          files: await filesBeside(flags.model),
          ...(flags.maxShardSize === undefined ? {} : { maxShardBytes: flags.maxShardSize * 1e6 }),
        });
        model.dispose();
      });
    });
}
