import { rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { InvalidArgumentError, Option } from "commander";
import { ConfigError, openDevice, tune, type Gpu } from "@x/kernels";
import { ropeFromHuggingFace } from "@x/positional";
import type { Tokenizer } from "@x/tokenizer";
import { loadFolderTokenizer } from "../checkpoint/load.js";
import { PARTS_FAMILY } from "../config/index.js";
import { atEnd } from "../process_end.js";

/** The checkpoint that comes with the repository. */
export const BUNDLED: string = fileURLToPath(new URL("../../checkpoint", import.meta.url));

const range = (min: number, max: number): string =>
  max < Infinity ? ` from ${min} to ${max}` : min > -Infinity ? ` of at least ${min}` : "";

/** Parses an option's number within bounds. @throws InvalidArgumentError */
export const numberIn =
  (min: number, max = Infinity) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value) || value < min || value > max)
      throw new InvalidArgumentError(`It must be a number${range(min, max)}.`);
    return value;
  };

/** Parses an option's integer within bounds, so that no digit is lost. @throws InvalidArgumentError */
export const integerIn =
  (min: number, max: number = Number.MAX_SAFE_INTEGER) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isSafeInteger(value) || value < min || value > max)
      throw new InvalidArgumentError(
        `It must be an integer${range(min, max === Number.MAX_SAFE_INTEGER ? Infinity : max)}.`,
      );
    return value;
  };

export const number = numberIn(-Infinity);
export const integer = integerIn(Number.MIN_SAFE_INTEGER);

/** Parses a text option: the shell's bytes must be UTF-8, and the text must not be empty. @throws InvalidArgumentError */
export const text = (given: string): string => {
  if (given === "") throw new InvalidArgumentError("It must not be empty.");
  return utf8(given);
};

/** Bytes that are not UTF-8 reach the process as U+FFFD. @throws InvalidArgumentError */
export const utf8 = (given: string): string => {
  if (given.includes("\uFFFD")) throw new InvalidArgumentError("It must be UTF-8 text.");
  return given;
};

/** An option that may be given again: a list. */
export const repeatable = (flags: string, description: string): Option =>
  new Option(flags, `${description} (may be given again)`)
    .argParser((given: string, list: string[]) => [...list, text(given)])
    .default([], "none");

export const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/**
 * Run with a device that is given back at the end. A GPU's forms are measured at the first run and kept; those of a CPU
 * are known, and measuring would compile what is not needed.
 */
export async function withDevice<T>(fn: (gpu: Gpu) => Promise<T>): Promise<T> {
  const gpu = await openDevice();
  const close = atEnd(() => {
    gpu.destroy();
  });
  try {
    if (!gpu.info.software) await tune(gpu);
    return await fn(gpu);
  } finally {
    close();
  }
}

/** Run with a folder that is removed at the end, whatever the end is. */
export async function withTemporaryFolder<T>(fn: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "reference-model-"));
  const close = atEnd(() => {
    rmSync(folder, { recursive: true, force: true });
  });
  try {
    return await fn(folder);
  } finally {
    close();
  }
}

/** The tokenizer of a model's folder. @throws ConfigError where there is none */
export async function expectTokenizer(who: string, folder: string): Promise<Tokenizer> {
  const tokenizer = await loadFolderTokenizer(folder);
  if (!tokenizer)
    throw new ConfigError(
      who,
      `${folder} has no tokenizer; it must hold tokenizer.json, vocab.json and merges.txt, or a .gguf file whose tokenizer.ggml.model is llama or gpt2`,
    );
  return tokenizer;
}

export const modelOption = (): Option =>
  new Option(
    "-m, --model <path>",
    "model folder (config.json, model.safetensors, tokenizer.json), a folder with one .gguf file, or that file",
  ).default(BUNDLED, "the bundled checkpoint");

export const ropeOption = (): Option =>
  new Option(
    "--rope-scaling <method>",
    'context extension instead of the model\'s own: "none", "linear:2", "dynamic:2", "ntk:4", "yarn:4", or a dictionary as in Hugging Face configs: {"rope_type":"yarn","factor":4,..}',
  );

type Json = Record<string, unknown>;
const SHORT = ["linear", "dynamic", "ntk", "yarn"];

function parseScaling(text: string): Json {
  const wrong = (reason: string): ConfigError =>
    new ConfigError(
      "--rope-scaling",
      `is ${JSON.stringify(text)}; it must be none, one of ${SHORT.join(", ")} with a factor such as yarn:4, or a JSON dictionary such as {"rope_type":"yarn","factor":4}${reason}`,
    );
  if (text === "none") return { rope_type: "default" };
  const [type, factor] = text.split(":");
  if (SHORT.includes(type!)) {
    const value = Number(factor);
    if (factor === undefined || factor === "" || !(value >= 1) || !Number.isFinite(value))
      throw wrong(" (the factor is a number of at least 1)");
    return { rope_type: type, factor: value };
  }
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
  } catch (cause) {
    throw wrong(` (${reasonOf(cause)})`);
  }
  throw wrong("");
}

/** Another context extension for a model's config.json; undefined where none is asked for. */
export function extension(ropeScaling: string | undefined): ((json: Json) => Json) | undefined {
  if (ropeScaling === undefined) return undefined;
  const value = parseScaling(ropeScaling);
  return (json) => {
    if (json["model_type"] === PARTS_FAMILY) {
      const maxLength = json["maxLength"] ?? 512;
      const { scaling } = ropeFromHuggingFace({
        rope_scaling: value,
        head_dim: 2,
        max_position_embeddings: maxLength,
      });
      const change = (part: unknown): unknown => {
        const position = (part ?? { type: "rope" }) as Json;
        return position["type"] === "rope" ? { ...position, scaling } : position;
      };
      const layers = json["layers"];
      return {
        ...json,
        position: change(json["position"]),
        ...(Array.isArray(layers)
          ? {
              layers: (layers as Json[]).map((layer) =>
                layer["position"] === undefined ? layer : { ...layer, position: change(layer["position"]) },
              ),
            }
          : {}),
      };
    }
    const { rope_parameters: parameters, ...rest } = json;
    const old = typeof parameters === "object" && parameters !== null ? (parameters as Json) : {};
    const theta = old["rope_theta"] ?? json["rope_theta"];
    return { ...rest, ...(theta === undefined ? {} : { rope_theta: theta }), rope_scaling: value };
  };
}
