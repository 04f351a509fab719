import type { Command } from "commander";
import { FormatError } from "@x/kernels";
import { writeSafetensors, type TensorData } from "@x/kernels/safetensors";
import { readJson, writeAtomically } from "../checkpoint/files.js";
import { loadCheckpoint } from "../checkpoint/load.js";
import { checkLength, CONTEXT_RULE } from "../model/context.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { outputFile } from "./output_option.js";
import { extension, modelOption, ropeOption, withDevice } from "./shared.js";

interface LogitsFlags extends ComponentsFlag {
  model: string;
  ids: string;
  out: string;
  json?: true;
  ropeScaling?: string;
}

/** `logits`: of every position, into a file. */
export function logitsCommand(program: Command): void {
  program
    .command("logits")
    .description("logits of every position for lists of ids, as safetensors")
    .addOption(modelOption())
    .addOption(componentsOption())
    .requiredOption("--ids <file>", 'JSON: [{"input_ids":[..]}, ..]')
    .addOption(
      outputFile(
        "--out <file>",
        "safetensors with logits.0, logits.1, ..: F32 [positions, vocab]",
      ).makeOptionMandatory(),
    )
    .option("--json", "print one line of JSON: {out, lists, positions, vocabSize}")
    .addOption(ropeOption())
    .addHelpText("after", `\n${CONTEXT_RULE}`)
    .action(async (flags: LogitsFlags) => {
      const list = await readJson(flags.ids);
      if (!Array.isArray(list)) throw new FormatError(flags.ids, 'must be a list of {"input_ids":[..]}');
      if (list.length === 0) throw new FormatError(flags.ids, "lists no ids");
      const components = await componentsOf(flags);
      await withDevice(async (gpu) => {
        const { model } = await loadCheckpoint(gpu, flags.model, {
          change: extension(flags.ropeScaling),
          components,
          stored: true,
        });
        const out: Record<string, TensorData> = {};
        for (const [i, item] of list.entries()) {
          const ids =
            typeof item === "object" && item !== null
              ? (item as Record<string, unknown>)["input_ids"]
              : undefined;
          if (
            !Array.isArray(ids) ||
            ids.length === 0 ||
            !ids.every(
              (x) => typeof x === "number" && Number.isInteger(x) && x >= 0 && x < model.config.vocabSize,
            )
          ) {
            throw new FormatError(
              flags.ids,
              `entry ${i}: input_ids must list ids in 0..${model.config.vocabSize - 1}`,
            );
          }
          const warning = checkLength(`${flags.ids}: entry ${i}`, model, ids.length);
          if (warning) process.stderr.write(`warning: entry ${i}: ${warning}\n`);
          const logits = gpu.scope(() => model.forward(gpu.tensor(ids as number[], [1, ids.length], "i32")));
          out[`logits.${i}`] = {
            shape: [ids.length, model.config.vocabSize],
            data: (await logits.read()) as Float32Array,
          };
          logits.dispose();
        }
        await writeAtomically(flags.out, writeSafetensors(out));
        process.stderr.write(
          `logits of ${list.length} ${list.length === 1 ? "list" : "lists"} of ids: ${flags.out}\n`,
        );
        if (flags.json) {
          const positions = Object.values(out).map(({ shape }) => shape[0]!);
          const { vocabSize } = model.config;
          process.stdout.write(
            `${JSON.stringify({ out: flags.out, lists: list.length, positions, vocabSize })}\n`,
          );
        }
        model.dispose();
      });
    });
}
