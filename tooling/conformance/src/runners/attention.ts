import {
  attentionOutputs,
  KVCache,
  maskMatrix,
  MultiHeadAttention,
  windowOf,
  type AttentionOptions,
  type MultiHeadAttentionConfig,
  type PatternConfig,
} from "@x/attention";
import { causalConv1d, silu, transpose, type Tensor } from "@x/kernels";
import { join, part, pieces } from "../golden/chunks.js";
import { flag, number, optionalNumber } from "../golden/config.js";
import { mechanisms } from "./attention_mechanisms.js";
import { sparse } from "./sparse.js";
import { withChunks, type Runner, type RunnerContext } from "../runner.js";

function optionsOf(
  { config, inputs, params }: RunnerContext,
  first = optionalNumber(config, "queryOffset"),
): AttentionOptions {
  const scale = optionalNumber(config, "scale");
  const queryOffset = first;
  const pattern = config["pattern"] as PatternConfig | undefined;
  return {
    ...(scale === undefined ? {} : { scale }),
    ...(queryOffset === undefined ? {} : { queryOffset }),
    softcap: number(config, "softcap", 0),
    bias: inputs["bias"],
    mask: inputs["mask"],
    keyMask: inputs["keyMask"],
    docs: inputs["docs"],
    sinks: params["sinks"],
    ...(pattern ? { pattern } : {}),
    causal: flag(config, "causal", false),
  };
}

const sdpa: Runner = withChunks(
  (context) => {
    const { config, inputs } = context;
    const q = inputs["q"]!;
    const options = optionsOf(context);
    const { out, lse } = attentionOutputs(q, inputs["k"]!, inputs["v"]!, options);
    return flag(config, "lse", false) ? { out, lse } : { out };
  },
  (context) => {
    const { config, inputs, gpu } = context;
    const [q, k, v] = [swap(inputs["q"]!), swap(inputs["k"]!), swap(inputs["v"]!)];
    const [batch, n] = q.shape as [number, number];
    const [m, numKvHeads, headDim] = k.shape.slice(1) as [number, number, number];
    const offset = optionalNumber(config, "queryOffset") ?? m - n;
    const chunks = config["chunks"] as number[];
    const pattern = config["pattern"] as PatternConfig | undefined;
    const window = pattern && windowOf(pattern)?.window;
    // A causal window needs a ring of its size; other patterns, and what is given for each key, all keys.
    const byKey = inputs["docs"] ?? inputs["bias"] ?? inputs["mask"];
    const ring = window && window.left >= 0 && offset === 0 && !byKey ? window.left + 1 : undefined;
    const cache = new KVCache(gpu, {
      batch,
      numKvHeads,
      headDim,
      valueDim: v.shape[3]!,
      maxLength: m,
      window: ring,
      maxChunk: Math.max(...chunks),
    });
    try {
      const outs: Tensor[] = [];
      const sums: Tensor[] = [];
      let held = 0;
      let docs: Tensor | undefined;
      for (const { start, end } of pieces(n, chunks)) {
        const fresh = { start: held, end: Math.min(m, offset + end) };
        if (fresh.end > fresh.start) {
          const { keyMask, docs: ids } = inputs;
          const hidden = keyMask && part(keyMask, 1, fresh);
          const { query: at } = cache.append(part(k, 1, fresh), part(v, 1, fresh), undefined, hidden);
          docs = ids && cache.appendDocs(part(ids, 1, fresh), at);
        }
        held = fresh.end;
        const rows = { start, end };
        const query = gpu.tensor(
          Int32Array.from({ length: batch * (end - start) }, (_, i) => offset + start + (i % (end - start))),
          [batch, end - start],
          "i32",
        );
        const cut = (t: Tensor | undefined): Tensor | undefined =>
          t && t.rank > 1 && t.shape[t.rank - 2] === n && n > 1 ? part(t, t.rank - 2, rows) : t;
        const { out, lse } = attentionOutputs(part(q, 1, rows), cache.keys, cache.values, {
          ...optionsOf(context, offset + start),
          queryOffset: offset + start,
          layout: "bshd",
          keyMask: undefined,
          docs,
          bias: cut(inputs["bias"]),
          mask: cut(inputs["mask"]),
          positions: cache.positions(query),
        });
        outs.push(swap(out));
        sums.push(lse);
      }
      return { out: join(outs, 2), ...(flag(config, "lse", false) ? { lse: join(sums, 2) } : {}) };
    } finally {
      cache.dispose();
    }
  },
);

const PROJECTIONS: Readonly<Record<string, string>> = {
  wq: "q_proj.weight",
  wk: "k_proj.weight",
  wv: "v_proj.weight",
  wo: "o_proj.weight",
  bq: "q_proj.bias",
  bk: "k_proj.bias",
  bv: "v_proj.bias",
  bo: "o_proj.bias",
  wgate: "gate_proj.weight",
  bgate: "gate_proj.bias",
};

/** The cases' `gate` and `bias` under the package's names; a bias that a case leaves out is zero. */
function projectedAttention({ config, params, gpu }: RunnerContext): MultiHeadAttention {
  const rest = Object.entries(config).filter(
    ([key]) => !["chunks", "cacheOut", "gate", "bias"].includes(key),
  );
  const given = Object.fromEntries(
    Object.entries(params).map(([name, t]) => [PROJECTIONS[name] ?? name, t] as const),
  );
  const biased = ["q", "k", "v", "gate"].some((name) => given[`${name}_proj.bias`]);
  const own = {
    ...Object.fromEntries(rest),
    outputGate: config["gate"],
    qkvBias: biased,
    outBias: given["o_proj.bias"] !== undefined,
  } as unknown as MultiHeadAttentionConfig;
  const zeros = Object.entries(MultiHeadAttention.plan(own))
    .filter(([name]) => name.endsWith(".bias"))
    .map(([name, { shape }]) => [name, given[name] ?? gpu.zeros(shape)] as const);
  return new MultiHeadAttention(own, { ...given, ...Object.fromEntries(zeros) });
}

const projected: Runner = withChunks(
  (context) => {
    const { config, inputs } = context;
    const { context: source, keyMask, docs } = inputs;
    const { out, keys, values } = projectedAttention(context).outputs(inputs["x"]!, {
      context: source,
      keyMask,
      docs,
    });
    if (!flag(config, "cacheOut", false)) return { out };
    return { out, cacheK: swap(keys), cacheV: swap(values) };
  },
  (context) => {
    const { config, inputs } = context;
    const x = inputs["x"]!;
    const n = x.shape[1]!;
    const layer = projectedAttention(context);
    const cache = layer.createState({ batch: x.shape[0]!, maxLength: n });
    try {
      const outs = pieces(n, config["chunks"] as number[]).map((rows) =>
        layer.forward(part(x, 1, rows), {
          state: cache,
          keyMask: inputs["keyMask"] && part(inputs["keyMask"], 1, rows),
          docs: inputs["docs"] && part(inputs["docs"], 1, rows),
        }),
      );
      const out = join(outs, 1);
      if (!flag(config, "cacheOut", false)) return { out };
      return { out, cacheK: swap(cache.keys), cacheV: swap(cache.values) };
    } finally {
      cache.dispose();
    }
  },
);

/** MQA's default of key heads. */
const oneKeyHead = (context: RunnerContext): RunnerContext => ({
  ...context,
  config: { numKvHeads: 1, ...context.config },
});

/** [b, n, h, d] to [b, h, n, d]. */
const swap = (t: Tensor): Tensor => transpose(t, [0, 2, 1, 3]);

export const attention: Readonly<Record<string, Runner>> = {
  ...mechanisms,
  ...sparse,
  sdpa,
  sliding_window: sdpa,
  block_local: sdpa,
  dilated_window: sdpa,
  random_global: sdpa,
  bigbird: sdpa,
  sparse_transformer: sdpa,
  combined: sdpa,
  mha: projected,
  cross_attention: projected,
  mqa: withChunks(
    (context) => projected(oneKeyHead(context)),
    (context) => projected.chunked!(oneKeyHead(context)),
  ),
  gqa: projected,
  gated_output: projected,
  causal_conv1d: ({ config, inputs, params }) => {
    const { out, state } = causalConv1d(inputs["x"]!, params["weight"]!, {
      bias: params["bias"],
      state: inputs["state"],
    });
    return { out: config["activation"] === "silu" ? silu(out) : out, state };
  },
};

export const masks: Readonly<Record<string, Runner>> = {
  patterns: ({ config }) => {
    const [heads, queries] = [number(config, "numHeads"), number(config, "n")];
    const keys = number(config, "m", queries);
    const queryOffset = number(config, "queryOffset", keys - queries);
    return {
      mask: {
        shape: [heads, queries, keys],
        data: maskMatrix(config["pattern"] as PatternConfig, { heads, queries, keys, queryOffset }),
      },
    };
  },
};
