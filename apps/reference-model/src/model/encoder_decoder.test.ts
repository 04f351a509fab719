import { describe, expect, it } from "vitest";
import { ConfigError, valueAndGrad, type Gpu, type Tensor } from "@x/kernels";
import { relativeError, useGpu } from "@x/testing";
import { encoderDecoderConfig, isEncoderDecoder, modelConfig } from "../families/index.js";
import { someIds } from "../test-support.js";
import { EncoderDecoderLM } from "./encoder_decoder.js";
import { generate } from "./generate.js";

const VOCAB = 23;
/** A tiny T5 whose sizes all differ. */
const tiny = (change: Record<string, unknown> = {}): Record<string, unknown> => ({
  model_type: "t5",
  vocab_size: VOCAB,
  d_model: 12,
  d_kv: 4,
  d_ff: 20,
  num_heads: 2,
  num_layers: 1,
  num_decoder_layers: 2,
  relative_attention_num_buckets: 6,
  relative_attention_max_distance: 9,
  ...change,
});

const rows = (gpu: Gpu, ...ids: (readonly number[])[]): Tensor =>
  gpu.tensor(ids.flat(), [ids.length, ids[0]!.length], "i32");

describe("an encoder-decoder", () => {
  const device = useGpu();
  const tinyModel = (change?: Record<string, unknown>): EncoderDecoderLM =>
    EncoderDecoderLM.init(device.gpu, encoderDecoderConfig(tiny(change)), { seed: 5 });
  /** The numbers of what `fn` makes, and nothing stays. */
  const read = async (fn: () => Tensor): Promise<number[]> => {
    const made = device.gpu.scope(fn);
    const numbers = Array.from(await made.read());
    made.dispose();
    return numbers;
  };

  it("padding of the encoder's texts changes no logit of the decoder", async () => {
    const { gpu } = device;
    const model = tinyModel();
    const [short, long] = [someIds(4, VOCAB), someIds(7, VOCAB).reverse()];
    const [first, second] = [someIds(5, VOCAB), someIds(5, VOCAB).reverse()];
    const alone = [
      ...(await read(() => model.forward(rows(gpu, short), rows(gpu, first)))),
      ...(await read(() => model.forward(rows(gpu, long), rows(gpu, second)))),
    ];
    const padded = (filler: number): Promise<number[]> =>
      read(() =>
        model.forward(rows(gpu, [...short, filler, filler, filler], long), rows(gpu, first, second), {
          keyMask: rows(gpu, [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]),
        }),
      );
    expect(relativeError(await padded(0), alone)).toBeLessThan(1e-5);
    expect(relativeError(await padded(9), alone)).toBeLessThan(1e-5);
    // Without a mask they are tokens.
    const unmasked = await read(() =>
      model.forward(rows(gpu, [...short, 0, 0, 0], long), rows(gpu, first, second)),
    );
    expect(relativeError(unmasked, alone)).toBeGreaterThan(1e-4);
    model.dispose();
  });

  it("the encoder sees later tokens and the decoder does not", async () => {
    const { gpu } = device;
    const model = tinyModel();
    const logits = (ids: readonly number[], decoderIds: readonly number[]): Promise<number[]> =>
      read(() => model.forward(rows(gpu, ids), rows(gpu, decoderIds)));
    const want = await logits([3, 4, 5, 6], [0, 7, 8, 9]);
    const later = await logits([3, 4, 5, 6], [0, 7, 8, 10]);
    expect(later.slice(0, 3 * VOCAB)).toEqual(want.slice(0, 3 * VOCAB));
    expect(later.slice(3 * VOCAB)).not.toEqual(want.slice(3 * VOCAB));
    const other = await logits([3, 4, 5, 11], [0, 7, 8, 9]);
    for (let t = 0; t < 4; t++)
      expect(other.slice(t * VOCAB, (t + 1) * VOCAB)).not.toEqual(want.slice(t * VOCAB, (t + 1) * VOCAB));
    model.dispose();
  });

  it.each([
    ["relu, tied", {}],
    ["gated, untied", { feed_forward_proj: "gated-silu", tie_word_embeddings: false, num_decoder_layers: 1 }],
  ])("%s: gradients are those of finite differences, for every parameter", async (_, change) => {
    const { gpu } = device;
    const model = tinyModel(change);
    const ids = rows(gpu, someIds(5, VOCAB), someIds(5, VOCAB).reverse());
    const keyMask = rows(gpu, [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]);
    const labels = [7, 3, 1, -100];
    const decoderIds = rows(gpu, model.decoderInputs(labels), [0, 5, 6, 2]);
    const targets = rows(gpu, labels, [5, 6, 2, 1]);
    const loss = (): Tensor => model.loss(ids, decoderIds, targets, { keyMask, training: true }).total;
    const parameters = model.parameters();
    // Larger weights, so that differences show in f32.
    for (const [name, tensor] of Object.entries(parameters))
      if (!name.includes("norm")) tensor.write(Float32Array.from(await tensor.read(), (x) => 12 * x));
    const { value, grads } = valueAndGrad(loss, parameters);
    value.dispose();
    for (const [name, grad] of Object.entries(grads)) {
      const slope = Array.from(await grad.read());
      const tensor = parameters[name]!;
      const start = Float32Array.from(await tensor.read());
      // Along the gradient itself the loss changes most.
      const norm = Math.hypot(...slope);
      expect(norm, name).toBeGreaterThan(1e-5);
      const step = 5e-4;
      const at = async (sign: number): Promise<number> => {
        tensor.write(start.map((x, i) => x + (sign * step * slope[i]!) / norm));
        return (await read(loss))[0]!;
      };
      const measured = ((await at(1)) - (await at(-1))) / (2 * step);
      tensor.write(start);
      // The loss of 3 is rounded to 2e-7, and ReLU has corners.
      expect(Math.abs(measured - norm), name).toBeLessThan(5e-4 + 0.01 * norm);
      grad.dispose();
    }
    for (const tensor of [ids, keyMask, decoderIds, targets]) tensor.dispose();
    model.dispose();
  });

  it("decoding with caches writes the best ids of whole passes, and a run leaves nothing behind", async () => {
    const { gpu } = device;
    const model = tinyModel({ num_layers: 2, feed_forward_proj: "gated-gelu", tie_word_embeddings: false });
    const ids = rows(gpu, someIds(6, VOCAB));
    const encoded = model.encode(ids);
    const want: number[] = [];
    for (let i = 0; i < 5; i++) {
      const logits = await read(() => model.forward(ids, rows(gpu, [0, ...want])));
      const last = logits.slice(-VOCAB);
      want.push(last.indexOf(Math.max(...last)));
    }
    const live: number[] = [];
    for (let run = 0; run < 2; run++) {
      const options = { maxNewTokens: 5, temperature: 0, ignoreEos: true };
      expect((await generate(model.conditioned(encoded), [0], options)).ids).toEqual(want);
      live.push(gpu.memory().liveBytes);
    }
    expect(live[1]).toBe(live[0]);
    for (const tensor of [ids, encoded.states]) tensor.dispose();
    model.dispose();
  });

  it("a state serves another encoder output after it is cleared, and a decoder without one is refused", async () => {
    const { gpu } = device;
    const model = tinyModel();
    const state = model.decoder.createState({ maxLength: 4 });
    for (const ids of [someIds(5, VOCAB), someIds(3, VOCAB).reverse()]) {
      state.clear();
      const encoded = model.encode(rows(gpu, ids));
      const decoder = model.conditioned(encoded);
      const positionIds = rows(gpu, [0, 1]);
      const got = await read(() => decoder.forward(rows(gpu, [0, 4]), { positionIds }, state));
      const want = await read(() => model.forward(rows(gpu, ids), rows(gpu, [0, 4])));
      expect(relativeError(got, want)).toBeLessThan(1e-5);
      encoded.states.dispose();
    }
    state.dispose();
    expect(() => model.decoder.forward(rows(gpu, [0]))).toThrow(/cross_attn: encoded is missing/);
    model.dispose();
  });

  it.each([
    [{ is_encoder_decoder: false }, /is_encoder_decoder is false/],
    [
      { feed_forward_proj: "gated-gelu-new" },
      /feed_forward_proj is "gated-gelu-new"; it must be an activation/,
    ],
    [{ feed_forward_proj: "gated-cosine" }, /feed_forward_proj is "cosine"; it must be one of/],
    [{ dense_act_fn: "cosine" }, /dense_act_fn is "cosine"/],
    [{ decoder_start_token_id: VOCAB }, /decoder_start_token_id is 23; it must be .* at most 22/],
    [{ pad_token_id: -1 }, /pad_token_id is -1/],
    [{ num_decoder_layers: 0 }, /num_decoder_layers is 0/],
    [{ num_layers: 0 }, /num_layers is 0/],
    [{ d_kv: 0 }, /d_kv is 0/],
    [{ d_model: "12" }, /d_model is "12"/],
    [{ relative_attention_num_buckets: 0 }, /relative_attention_num_buckets is 0/],
  ])("refuses %j by the file's key", (change, message) => {
    expect(() => encoderDecoderConfig(tiny(change))).toThrow(message);
    expect(() => encoderDecoderConfig(tiny(change))).toThrow(ConfigError);
  });

  it("starts with the padding id where no start is named, and other models are refused by their type", () => {
    const config = encoderDecoderConfig(tiny({ pad_token_id: 3 }));
    expect([config.decoderStartTokenId, config.padTokenId]).toEqual([3, 3]);
    expect(config.encoder.layers).toHaveLength(1);
    expect(config.decoder.layers).toHaveLength(2);
    expect(encoderDecoderConfig(tiny({ num_decoder_layers: null })).decoder.layers).toHaveLength(1);
    expect(isEncoderDecoder(tiny())).toBe(true);
    expect(isEncoderDecoder({ model_type: "llama" })).toBe(false);
    expect(() => modelConfig(tiny())).toThrow(/model_type is "t5", an encoder-decoder/);
    expect(() => encoderDecoderConfig({ model_type: "llama" })).toThrow(/model_type is "llama"/);
  });
});
