import { attention, KVCache } from "@x/attention";
import { gluFfn } from "@x/ffn";
import {
  add,
  AdamW,
  embedding,
  linear,
  matmul,
  mul,
  softmax,
  square,
  sub,
  sum,
  valueAndGrad,
  vjp,
  type Gpu,
  type Recording,
  type Tensor,
} from "@x/kernels";
import { layerNorm, rmsNorm } from "@x/norm";
import { RotaryEmbedding } from "@x/positional";
import { DECODE, type Kind } from "./cases.js";
import type { Inputs } from "../measure/data.js";
import { ADAMW, LAYER, LAYER_PARAMETERS, type LayerParameter } from "../reference/decoder_layer.js";

/** A benchmark made ready: what one run does, and what it gives. */
export interface Program {
  /** Queue one run. */
  readonly step: () => void;
  /** Outputs of the last run of a recording, or of one more run. */
  readonly outputs: () => Promise<Float32Array[]>;
  readonly dispose: () => void;
}

type Options = Readonly<Record<string, number>>;
type Tensors = Readonly<Record<string, Tensor>>;
type Build = (gpu: Gpu, t: Tensors, options: Options) => Program;

const read = async (tensors: readonly Tensor[]): Promise<Float32Array[]> =>
  Promise.all(tensors.map(async (t) => Float32Array.from(await t.read())));

/** Each run calls the functions, as an application's first version would. */
function eager(gpu: Gpu, run: () => readonly Tensor[]): Program {
  return {
    step: () => {
      gpu.scope(() => {
        run();
      });
    },
    outputs: async () => {
      const tensors = gpu.scope(() => run());
      const values = await read(tensors);
      for (const t of tensors) t.dispose();
      return values;
    },
    dispose: () => undefined,
  };
}

/** The first run is recorded, the others replay it. */
function recorded(gpu: Gpu, run: () => readonly Tensor[], before: () => void = () => undefined): Program {
  let recording: Recording<readonly Tensor[]> | undefined;
  const step = (): void => {
    before();
    if (recording) recording.replay();
    else recording = gpu.record(run);
  };
  return {
    step,
    outputs: async () => {
      if (!recording) step();
      return read(recording!.outputs);
    },
    dispose: () => recording?.dispose(),
  };
}

type LayerTensors = Readonly<Record<LayerParameter, Tensor>>;

/** A pre-norm decoder layer from the packages' functions; `mix` is the attention over q, k, v (before rotation). */
function decoderLayer(x: Tensor, w: LayerTensors, mix: (q: Tensor, k: Tensor, v: Tensor) => Tensor): Tensor {
  const { heads, kvHeads, headDim, eps, dim } = LAYER;
  const seq = x.shape[0]!;
  const normed = rmsNorm(x, { weight: w["input_layernorm.weight"], eps });
  const project = (name: LayerParameter, n: number): Tensor =>
    linear(normed, w[name]).reshape([1, seq, n, headDim]);
  const mixed = mix(
    project("q_proj.weight", heads),
    project("k_proj.weight", kvHeads),
    project("v_proj.weight", kvHeads),
  ).reshape([seq, dim]);
  const middle = linear(mixed, w["o_proj.weight"], undefined, { residual: x });
  return gluFfn(
    rmsNorm(middle, { weight: w["post_attention_layernorm.weight"], eps }),
    { wGate: w["gate_proj.weight"], wUp: w["up_proj.weight"], wDown: w["down_proj.weight"] },
    { residual: middle },
  );
}

const layerTensors = (t: Tensors, prefix = ""): LayerTensors =>
  Object.fromEntries(LAYER_PARAMETERS.map((name) => [name, t[prefix + name]])) as unknown as LayerTensors;

const rotary = (): RotaryEmbedding => new RotaryEmbedding({ headDim: LAYER.headDim });

function forwardLayer(x: Tensor, w: LayerTensors, rope: RotaryEmbedding): Tensor {
  const layout = "bshd";
  return decoderLayer(x, w, (q, k, v) =>
    attention(...rope.applyQK(q, k, { layout }), v, { causal: true, layout }),
  );
}

const window = (options: Options) => ({
  causal: true,
  window: options["window"] ? { left: options["window"] - 1, right: 0 } : undefined,
});

const PROGRAMS: Readonly<Record<Kind, Build>> = {
  matmul: (gpu, t) => eager(gpu, () => [matmul(t["a"]!, t["b"]!)]),
  rmsNorm: (gpu, t, o) => eager(gpu, () => [rmsNorm(t["x"]!, { weight: t["weight"], eps: o["eps"]! })]),
  layerNorm: (gpu, t, o) =>
    eager(gpu, () => [layerNorm(t["x"]!, { weight: t["weight"], eps: o["eps"]!, bias: t["bias"] })]),
  softmax: (gpu, t) => eager(gpu, () => [softmax(t["x"]!)]),
  attention: (gpu, t, o) => {
    const [q, k, v] = ["q", "k", "v"].map((n) => t[n]!.reshape([1, ...t[n]!.shape])) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    return eager(gpu, () => [attention(q, k, v, window(o))]);
  },
  attentionGradient: (gpu, t, o) => {
    const [q, k, v, grad] = ["q", "k", "v", "grad"].map((n) => t[n]!.reshape([1, ...t[n]!.shape])) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    return eager(gpu, () => vjp(() => [attention(q, k, v, window(o))], [q, k, v]).pullback([grad]));
  },
  layer: (gpu, t) => {
    const rope = rotary();
    const weights = layerTensors(t);
    return recorded(gpu, () => [forwardLayer(t["x"]!, weights, rope)]);
  },
  layerTraining: (gpu, t) => {
    const rope = rotary();
    const weights = layerTensors(t);
    const { learningRate, beta1, beta2, eps, weightDecay } = ADAMW;
    const optimizer = new AdamW(weights, {
      learningRate,
      betas: [beta1, beta2],
      eps,
      weightDecay,
      decays: () => true,
    });
    return recorded(
      gpu,
      () => {
        const { value, grads } = valueAndGrad(
          () => mul(sum(square(sub(forwardLayer(t["x"]!, weights, rope), t["target"]!))), 1 / LAYER.seq),
          weights,
        );
        optimizer.update(grads);
        return [value, ...LAYER_PARAMETERS.map((name) => weights[name])];
      },
      () => {
        optimizer.advance();
      },
    );
  },
  decode: (gpu, t) => {
    const rope = rotary();
    const { kvHeads, headDim } = LAYER;
    const layout = "bshd";
    const id = gpu.tensor([7], [1], "i32");
    const position = gpu.tensor([DECODE.past], [1, 1], "i32");
    const earlier = gpu.tensor(
      Array.from({ length: DECODE.past }, (_, i) => i),
      [1, DECODE.past],
      "i32",
    );
    const layers = Array.from({ length: DECODE.layers }, (_, i) => {
      const cache = new KVCache(gpu, { batch: 1, numKvHeads: kvHeads, headDim, maxLength: DECODE.past + 1 });
      const past = (name: string): Tensor => t[`${i}.${name}`]!.reshape([1, DECODE.past, kvHeads, headDim]);
      cache.append(past("k"), past("v"), earlier);
      return { cache, weights: layerTensors(t, `${i}.`) };
    });
    return recorded(gpu, () => {
      let x = embedding(t["embedding"]!, id);
      for (const { cache, weights } of layers)
        x = decoderLayer(x, weights, (q, k, v) => {
          const rotation = { layout, positionIds: position, seqLen: DECODE.past + 1 } as const;
          const [turnedQ, turnedK] = rope.applyQK(q, k, rotation);
          cache.append(turnedK, v, position);
          return attention(turnedQ, cache.keys, cache.values, {
            causal: true,
            layout,
            positions: cache.positions(position),
          });
        });
      return [linear(x, t["head"]!)];
    });
  },
  tinyOp: (gpu, t, o) =>
    eager(gpu, () => {
      let x = t["x"]!;
      for (let i = 0; i < o["operations"]!; i++) x = add(x, 1);
      return [x];
    }),
};

/** Upload a case's inputs and make its program. */
export function buildProgram(gpu: Gpu, kind: Kind, options: Options, inputs: Inputs): Program {
  const tensors = Object.fromEntries(
    Object.entries(inputs).map(([name, { shape, data }]) => [name, gpu.keep(gpu.tensor(data, shape))]),
  );
  // Tensors that a program makes once live as long as it does.
  const program = PROGRAMS[kind](gpu, tensors, options);
  return {
    ...program,
    dispose: () => {
      program.dispose();
      for (const t of Object.values(tensors)) t.dispose();
    },
  };
}
