import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "vitest";
import { type Gpu, type Tensor, valueAndGrad } from "@x/kernels";
import { Safetensors } from "@x/kernels/safetensors";
import { relativeError } from "@x/kernels/testing";
import { loadModel, type LoadOptions } from "./checkpoint/load.js";
import { modelConfig } from "./families/index.js";
import { generate } from "./model/generate.js";
import type { EncoderDecoderLM } from "./model/encoder_decoder.js";
import { CausalLM, type Decoder } from "./model/model.js";

/** What `expected.json` holds beside a model. */
export interface Expected {
  readonly cases: {
    readonly name?: string;
    readonly prompt?: string;
    readonly input_ids: number[];
    /** Of an encoder-decoder. */
    readonly decoder_input_ids?: number[];
    readonly greedy: number[];
    readonly text?: string;
    readonly reliable_tokens?: number;
    readonly logits?: string;
    readonly labels?: number[];
    readonly loss?: number;
  }[];
}

/** A model as `checkExpected` asks it. */
interface Asked {
  readonly logits: () => Tensor;
  readonly loss: (labels: readonly number[]) => Tensor;
  readonly decoder: Decoder;
  /** What greedy ids go on after. */
  readonly prompt: readonly number[];
  /** Tensors to dispose. */
  readonly held: readonly Tensor[];
}

const row = (gpu: Gpu, ids: readonly number[]): Tensor => gpu.tensor(ids, [1, ids.length], "i32");

/** One case of a decoder-only model, whose logits predict the next id, or of an encoder-decoder, whose labels are in place. */
function asked(
  model: CausalLM | EncoderDecoderLM,
  { input_ids, decoder_input_ids }: Expected["cases"][0],
): Asked {
  const { gpu } = model;
  const ids = row(gpu, input_ids);
  if (model instanceof CausalLM)
    return {
      logits: () => model.forward(ids),
      loss: (labels) => model.loss(ids, row(gpu, [...labels.slice(1), -100])).crossEntropy,
      decoder: model,
      prompt: input_ids,
      held: [ids],
    };
  const decoderIds = row(gpu, decoder_input_ids!);
  const encoded = model.encode(ids);
  return {
    logits: () => model.forward(ids, decoderIds),
    loss: (labels) => model.loss(ids, decoderIds, row(gpu, labels)).crossEntropy,
    decoder: model.conditioned(encoded),
    prompt: [model.config.decoderStartTokenId],
    held: [ids, decoderIds, encoded.states],
  };
}

/** Logits within 5e-4, losses within 1e-4 and greedy ids of a model as the files beside it say. */
export async function checkExpected(
  gpu: Gpu,
  folder: string,
  path: string = folder,
  options: LoadOptions = {},
): Promise<void> {
  const expected = JSON.parse(await readFile(join(folder, "expected.json"), "utf8")) as Expected;
  const tensors = await Safetensors.parse("expected", await readFile(join(folder, "expected.safetensors")));
  const { model } = await loadModel(gpu, path, options);
  for (const [i, c] of expected.cases.entries()) {
    const { logits, loss, decoder, prompt, held } = asked(model, c);
    const want = await tensors.numbers(c.logits ?? `c${i}.logits`);
    const all = gpu.scope(logits);
    const got = await all.read();
    expect(got.length).toBe(want.length);
    const worst = Array.from(got).reduce((most, x, at) => Math.max(most, Math.abs(x - want[at]!)), 0);
    expect(worst, `the largest difference of logits in case ${i}`).toBeLessThan(5e-4);
    if (c.labels && c.loss !== undefined) {
      const mean = gpu.scope(() => loss(c.labels!));
      expect(Math.abs((await mean.item()) - c.loss), `the difference of losses in case ${i}`).toBeLessThan(
        1e-4,
      );
      mean.dispose();
    }
    const out = await generate(decoder, prompt, {
      maxNewTokens: c.greedy.length,
      temperature: 0,
      ignoreEos: true,
    });
    expect(out.ids).toEqual(c.greedy);
    for (const tensor of [...held, all]) tensor.dispose();
  }
  model.dispose();
}

/** A tiny model of parts; `change` names what differs from the plain recipe. */
export function tinyParts(change: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    model_type: "parts",
    vocab_size: 40,
    dim: 32,
    maxLength: 64,
    numLayers: 2,
    mixer: { type: "attention", numHeads: 4, numKvHeads: 2 },
    ffn: { type: "glu", hiddenDim: 48 },
    ...change,
  };
}

/** Ids that repeat little. */
export const someIds = (n: number, vocab = 40): number[] =>
  Array.from({ length: n }, (_, i) => (i * 17 + 5 + (i >> 2)) % vocab);

/**
 * What every configuration must hold to: decoding in pieces with the states gives the logits of the whole pass, a
 * later token changes no earlier output, every parameter has a finite gradient (all zero only for those in `still`),
 * and nothing stays allocated.
 */
export async function checkModel(
  gpu: Gpu,
  json: Record<string, unknown>,
  {
    length = 23,
    tolerance = 2e-5,
    causal = true,
    decodes = true,
    still = [],
  }: {
    length?: number;
    tolerance?: number;
    causal?: boolean;
    decodes?: boolean;
    still?: readonly RegExp[];
  } = {},
): Promise<void> {
  const config = modelConfig(json);
  const model = CausalLM.init(gpu, config, { seed: 3 });
  const ids = someIds(length, config.vocabSize);
  const run = (list: readonly number[]): Promise<ArrayLike<number>> => {
    const logits = gpu.scope(() => model.forward(gpu.tensor(list, [1, list.length], "i32")));
    return logits.read().finally(() => {
      logits.dispose();
    });
  };
  const whole = Array.from(await run(ids));
  expect(whole.every(Number.isFinite)).toBe(true);
  if (causal) {
    const changed = Array.from(await run([...ids.slice(0, -1), (ids.at(-1)! + 1) % config.vocabSize]));
    const same = (length - 1) * config.vocabSize;
    expect(relativeError(changed.slice(0, same), whole.slice(0, same))).toBeLessThan(1e-6);
  }
  if (decodes) {
    const state = model.createState({ maxLength: length + 3, maxChunk: 9 });
    const pieces: number[] = [];
    // Chunks, then single tokens.
    const cuts = [0, 9, 16, ...Array.from({ length: length - 16 }, (_, i) => 17 + i)];
    for (let c = 0; c + 1 < cuts.length; c++) {
      const [from, to] = [cuts[c]!, cuts[c + 1]!];
      const logits = gpu.scope(() => {
        const positionIds = gpu.tensor(
          Array.from({ length: to - from }, (_, i) => from + i),
          [1, to - from],
          "i32",
        );
        return model.forward(gpu.tensor(ids.slice(from, to), [1, to - from], "i32"), { positionIds }, state);
      });
      pieces.push(...(await logits.read()));
      logits.dispose();
    }
    expect(relativeError(pieces, whole)).toBeLessThan(tolerance);
    state.dispose();
  }
  const parameters = model.parameters();
  const input = gpu.tensor([...ids, ...ids], [2, length], "i32");
  const targets = gpu.tensor([...ids.slice(1), 0, ...ids.slice(1), -100], [2, length], "i32");
  const { value, grads } = valueAndGrad(
    () => model.loss(input, targets, { training: true }).total,
    parameters,
  );
  expect(Number.isFinite(await value.item())).toBe(true);
  for (const [name, grad] of Object.entries(grads)) {
    const numbers = Array.from(await grad.read());
    expect(numbers.every(Number.isFinite), `gradient of ${name}`).toBe(true);
    if (!still.some((pattern) => pattern.test(name)))
      expect(
        numbers.some((x) => x !== 0),
        `gradient of ${name} is not all zero`,
      ).toBe(true);
    grad.dispose();
  }
  value.dispose();
  input.dispose();
  targets.dispose();
  model.dispose();
}
