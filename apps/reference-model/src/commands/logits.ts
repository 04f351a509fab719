import type { Command } from "commander";
import { FormatError, type Gpu, type Tensor } from "@x/kernels";
import { writeSafetensors, type TensorData } from "@x/kernels/safetensors";
import { readJson, writeAtomically } from "../checkpoint/files.js";
import { loadModel, type Checkpoint, type EncoderDecoderCheckpoint } from "../checkpoint/load.js";
import { expectObject } from "../config/index.js";
import { checkLength, CONTEXT_RULE } from "../model/context.js";
import { adapterOption, adaptersOf, type AdapterFlag } from "./adapter_option.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { expectNoRope, hasEncoder, row } from "./encoder_decoder.js";
import { outputFile } from "./output_option.js";
import { loadingBar } from "./progress.js";
import { extension, modelOption, ropeOption, withDevice } from "./shared.js";

interface LogitsFlags extends ComponentsFlag, AdapterFlag {
  model: string;
  ids: string;
  out: string;
  json?: true;
  ropeScaling?: string;
}

/** One entry of the file: ids, for an encoder-decoder those of both texts. */
class Entry {
  readonly #file: string;
  readonly #number: number;
  readonly #json: Readonly<Record<string, unknown>>;

  constructor(file: string, number: number, json: unknown) {
    this.#file = file;
    this.#number = number;
    this.#json = expectObject(this.who, json);
  }

  get who(): string {
    return `${this.#file}: entry ${this.#number}`;
  }

  /** A list of integers from 0 to `last`, or undefined where the key is absent. @throws FormatError */
  list(key: string, last: number, what = "ids"): number[] | undefined {
    const given = this.#json[key] ?? undefined;
    if (given === undefined) return undefined;
    const fits = (x: unknown): boolean => typeof x === "number" && Number.isInteger(x) && x >= 0 && x <= last;
    if (!Array.isArray(given) || given.length === 0 || !given.every(fits))
      throw new FormatError(this.#file, `entry ${this.#number}: ${key} must list ${what} in 0..${last}`);
    return given as number[];
  }

  /** The ids that every entry has. @throws FormatError */
  ids(last: number): number[] {
    return this.list("input_ids", last) ?? this.fail(`input_ids must list ids in 0..${last}`);
  }

  fail(message: string): never {
    throw new FormatError(this.#file, `entry ${this.#number}: ${message}`);
  }

  /** Says that a text is longer than the model was made for. */
  warn(message: string | undefined): void {
    if (message) process.stderr.write(`warning: entry ${this.#number}: ${message}\n`);
  }
}

/** Logits [1, positions, vocab] of one entry. @throws FormatError, ConfigError */
function logitsOf(gpu: Gpu, loaded: Checkpoint | EncoderDecoderCheckpoint, entry: Entry): Tensor {
  if (!hasEncoder(loaded)) {
    const { model } = loaded;
    const ids = entry.ids(model.config.vocabSize - 1);
    entry.warn(checkLength(entry.who, model, ids.length));
    return gpu.scope(() => model.forward(row(gpu, ids)));
  }
  const { model, config } = loaded;
  const last = config.encoder.vocabSize - 1;
  const ids = entry.ids(last);
  const decoderIds = entry.list("decoder_input_ids", last) ?? [config.decoderStartTokenId];
  const mask = entry.list("attention_mask", 1, "numbers");
  if (mask && mask.length !== ids.length)
    entry.fail(`attention_mask has ${mask.length} numbers, input_ids has ${ids.length} ids`);
  entry.warn(checkLength(entry.who, model.encoderLimits, ids.length));
  entry.warn(checkLength(entry.who, model.decoder, decoderIds.length));
  return gpu.scope(() =>
    model.forward(row(gpu, ids), row(gpu, decoderIds), { keyMask: mask && row(gpu, mask) }),
  );
}

/** `logits`: of every position, into a file. */
export function logitsCommand(program: Command): void {
  program
    .command("logits")
    .description("logits of every position for lists of ids, as safetensors")
    .addOption(modelOption())
    .addOption(adapterOption())
    .addOption(componentsOption())
    .requiredOption(
      "--ids <file>",
      'JSON: [{"input_ids":[..]}, ..]; of an encoder-decoder also "decoder_input_ids" (default: the start id) and "attention_mask" of the encoder\'s text (0: padding)',
    )
    .addOption(
      outputFile(
        "--out <file>",
        "safetensors with logits.0, logits.1, ..: F32 [positions, vocab]; of an encoder-decoder, the decoder's positions",
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
      const adapters = await adaptersOf(flags.adapter);
      await withDevice(async (gpu) => {
        const change = extension(flags.ropeScaling);
        const loaded = await loadModel(gpu, flags.model, {
          ...loadingBar(flags.model),
          change,
          components,
          adapters,
          stored: true,
        });
        expectNoRope(flags.ropeScaling, loaded);
        const out: Record<string, TensorData> = {};
        for (const [i, item] of list.entries()) {
          const logits = logitsOf(gpu, loaded, new Entry(flags.ids, i, item));
          out[`logits.${i}`] = {
            shape: logits.shape.slice(1),
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
          const vocabSize = out["logits.0"]!.shape[1]!;
          process.stdout.write(
            `${JSON.stringify({ out: flags.out, lists: list.length, positions, vocabSize })}\n`,
          );
        }
        loaded.model.dispose();
      });
    });
}
