import {
  MemorizingAttention,
  MultiHeadLatentAttention,
  RecurrentMemoryTransformer,
  Sled,
  TopDownTransformer,
  TransformerXl,
  TransformerXlAttention,
  UnlimiformerAttention,
  Yoco,
} from "@x/attention";
import { transpose, type Tensor } from "@x/kernels";
import { join, part, pieces } from "../golden/chunks.js";
import { optionalNumber } from "../golden/config.js";
import { withChunks, type Runner, type RunnerContext } from "../runner.js";

type Names = Readonly<Record<string, string>>;

/** Golden names of a layer's parameters, by the names the packages use. */
const BLOCK: Names = {
  norm1: "input_layernorm.weight",
  wq: "self_attn.q_proj.weight",
  wk: "self_attn.k_proj.weight",
  wv: "self_attn.v_proj.weight",
  wo: "self_attn.o_proj.weight",
  normC: "cross_attn_layernorm.weight",
  wqC: "cross_attn.q_proj.weight",
  wkC: "cross_attn.k_proj.weight",
  wvC: "cross_attn.v_proj.weight",
  woC: "cross_attn.o_proj.weight",
  norm2: "post_attention_layernorm.weight",
  w1: "mlp.gate_proj.weight",
  w3: "mlp.up_proj.weight",
  w2: "mlp.down_proj.weight",
};

const PROJECTIONS: Names = {
  wq: "q_proj.weight",
  wk: "k_proj.weight",
  wv: "v_proj.weight",
  wo: "o_proj.weight",
  bq: "q_proj.bias",
  bk: "k_proj.bias",
  bv: "v_proj.bias",
  bo: "o_proj.bias",
};

/** Parameters under the packages' names: whole names first, then layers PREFIX.<l>.NAME by prefix. */
function renamed(
  params: Readonly<Record<string, Tensor>>,
  whole: Names,
  layers: Readonly<Record<string, { readonly to: string; readonly names: Names }>> = {},
): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(params).map(([name, tensor]) => {
      const [, prefix = "", l = "", rest = ""] = /^(\w+)\.(\d+)\.(\w+)$/.exec(name) ?? [];
      const layer = layers[prefix];
      if (layer) return [`${layer.to}.${l}.${layer.names[rest] ?? rest}`, tensor];
      return [whole[name] ?? name, tensor];
    }),
  );
}

/** The configuration without the keys that only say how the case is run; the mechanism checks the rest. */
const configOf = ({ config }: RunnerContext, ...without: string[]): never =>
  Object.fromEntries(Object.entries(config).filter(([key]) => !without.includes(key))) as never;

const mlaOf = (context: RunnerContext): MultiHeadLatentAttention =>
  new MultiHeadLatentAttention(
    configOf(context, "chunks"),
    renamed(context.params, {
      wq: "q_proj.weight",
      wqA: "q_a_proj.weight",
      qNorm: "q_a_layernorm.weight",
      wqB: "q_b_proj.weight",
      wkvA: "kv_a_proj_with_mqa.weight",
      kvNorm: "kv_a_layernorm.weight",
      wkvB: "kv_b_proj.weight",
      wo: "o_proj.weight",
    }),
  );

const mla: Runner = withChunks(
  (context) => {
    const layer = mlaOf(context);
    const { out, latent, keyRope } = layer.outputs(context.inputs["x"]!);
    layer.dispose();
    return { out, cacheLatent: latent, cacheKRope: keyRope };
  },
  (context) => {
    const { inputs, config } = context;
    const x = inputs["x"]!;
    const [batch, n] = x.shape as [number, number];
    const layer = mlaOf(context);
    const cache = layer.createState({ batch, maxLength: n });
    try {
      const outs = pieces(n, config["chunks"] as number[]).map((rows) =>
        layer.forward(part(x, 1, rows), { state: cache }),
      );
      const { kvRank, ropeDim } = layer.config;
      const rows = cache.rows.reshape([batch, n, kvRank + ropeDim]);
      return {
        out: join(outs, 1),
        cacheLatent: part(rows, 2, { start: 0, end: kvRank }),
        cacheKRope: part(rows, 2, { start: kvRank, end: kvRank + ropeDim }),
      };
    } finally {
      cache.dispose();
      layer.dispose();
    }
  },
);

const XL_LAYER: Names = {
  ...Object.fromEntries(["q", "k", "v", "r", "o"].map((n) => [`w${n}`, `attn.${n}_proj.weight`])),
  ln1w: "attn_norm.weight",
  ln1b: "attn_norm.bias",
  w1: "ffn.w1.weight",
  b1: "ffn.w1.bias",
  w2: "ffn.w2.weight",
  b2: "ffn.w2.bias",
  ln2w: "ffn_norm.weight",
  ln2b: "ffn_norm.bias",
};

const transformerXl: Runner = (context) => {
  const { config, inputs, params } = context;
  const x = inputs["x"]!;
  if (optionalNumber(config, "segmentLen") === undefined) {
    const layer = new TransformerXlAttention(
      configOf(context),
      renamed(params, { ...PROJECTIONS, wr: "r_proj.weight" }),
    );
    const out = layer.forward(x, { memory: inputs["mem"] });
    layer.dispose();
    return { out };
  }
  const stack = new TransformerXl(
    configOf(context),
    renamed(params, {}, { layers: { to: "layers", names: XL_LAYER } }),
  );
  const { out, memory } = stack.outputs(x, { memory: inputs["mem"] });
  stack.dispose();
  return { out, mem: memory };
};

const rmt: Runner = (context) => {
  const memory = context.inputs["memory0"];
  // A case that is given its first memory may lack the learned one.
  const params = memory
    ? { memory: context.gpu.zeros(memory.shape.slice(1)), ...context.params }
    : context.params;
  const model = new RecurrentMemoryTransformer(
    configOf(context),
    renamed(params, { norm: "norm.weight" }, { layers: { to: "layers", names: BLOCK } }),
  );
  return { ...model.outputs(context.inputs["x"]!, { memory }) };
};

const topDown: Runner = (context) => {
  const names = (to: string): { to: string; names: Names } => ({ to, names: BLOCK });
  const { keyMask, poolWeights } = context.inputs;
  return {
    ...new TopDownTransformer(
      configOf(context),
      renamed(
        context.params,
        { norm: "norm.weight", normTop: "top_norm.weight" },
        { bottom: names("bottom"), top: names("top"), down: names("down") },
      ),
    ).outputs(context.inputs["x"]!, { keyMask, poolWeights }),
  };
};

const sled: Runner = (context) => {
  const { x, y, keyMask } = context.inputs;
  const model = new Sled(
    configOf(context),
    renamed(
      context.params,
      { norm: "norm.weight", decNorm: "decoder_norm.weight" },
      { layers: { to: "layers", names: BLOCK }, dec: { to: "decoder", names: BLOCK } },
    ),
  );
  return { ...model.outputs(x!, { y: y!, keyMask }) };
};

const yocoOf = (context: RunnerContext): Yoco =>
  new Yoco(
    configOf(context, "prefill", "chunks"),
    renamed(
      context.params,
      { kvNorm: "kv_layer_norm.weight", wk: "k_proj.weight", wv: "v_proj.weight", norm: "norm.weight" },
      {
        self: { to: "self_decoder", names: BLOCK },
        cross: {
          to: "cross_decoder",
          names: { ...BLOCK, wq: "cross_attn.q_proj.weight", wo: "cross_attn.o_proj.weight" },
        },
      },
    ),
  );

/** [b, n, h, d] to [b, h, n, d]. */
const swap = (t: Tensor): Tensor => transpose(t, [0, 2, 1, 3]);

const yoco: Runner = withChunks(
  (context) => {
    const model = yocoOf(context);
    const prefill = optionalNumber(context.config, "prefill");
    const from = prefill === undefined ? 0 : prefill - 1;
    const { out, keys, values } = model.outputs(context.inputs["x"]!, { from });
    model.dispose();
    return { out, cacheK: swap(keys), cacheV: swap(values) };
  },
  (context) => {
    const { config, inputs } = context;
    const x = inputs["x"]!;
    const [batch, n] = x.shape as [number, number];
    const model = yocoOf(context);
    const state = model.createState({ batch, maxLength: n });
    const prefill = optionalNumber(config, "prefill");
    const chunks = (config["chunks"] as number[] | undefined) ?? [prefill!];
    try {
      const outs = pieces(n, chunks).map((rows, i) =>
        i === 0 && prefill !== undefined
          ? model.prefill(part(x, 1, rows), state)
          : model.forward(part(x, 1, rows), { state }),
      );
      const { keys, values } = state.shared;
      return { out: join(outs, 1), cacheK: swap(keys), cacheV: swap(values) };
    } finally {
      state.dispose();
      model.dispose();
    }
  },
);

const memorizing: Runner = (context) => {
  const { memK, memV } = context.inputs;
  const { out, memory } = new MemorizingAttention(
    configOf(context),
    renamed(context.params, { ...PROJECTIONS, logScale: "log_scale" }),
  ).outputs(context.inputs["x"]!, { memory: memK && memV ? { keys: memK, values: memV } : undefined });
  return { out, memK: memory.keys, memV: memory.values };
};

const unlimiformer: Runner = (context) => {
  const { x, hidden, keyMask } = context.inputs;
  return {
    ...new UnlimiformerAttention(configOf(context), renamed(context.params, PROJECTIONS)).outputs(x!, {
      context: hidden!,
      keyMask,
    }),
  };
};

export const mechanisms: Readonly<Record<string, Runner>> = {
  mla,
  transformer_xl: transformerXl,
  rmt,
  top_down: topDown,
  sled,
  yoco,
  memorizing,
  unlimiformer,
};
