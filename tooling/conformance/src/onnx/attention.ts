import {
  add,
  broadcastTo,
  cast,
  causalConv1d,
  concat,
  exp,
  greater,
  matmul,
  mul,
  pad,
  repeat,
  silu,
  sub,
  tanh,
  transpose,
  where,
  type Tensor,
} from "@x/kernels";
import { attentionOutputs, deltaRule, gatedDeltaRule, gatedLinearAttention, kda } from "@x/attention";
import { rotate } from "@x/positional";
import { NotExpressible, type OnnxMapping, type OnnxMappings, type OnnxNode } from "./node.js";

/** [batch, seq, heads dim] as [batch, heads, seq, dim]. */
const splitHeads = (x: Tensor, heads: number): Tensor =>
  transpose(x.reshape([x.shape[0]!, x.shape[1]!, heads, x.shape[2]! / heads]), [0, 2, 1, 3]);

const mergeHeads = (x: Tensor): Tensor =>
  transpose(x, [0, 2, 1, 3]).reshape([x.shape[0]!, x.shape[2]!, x.shape[1]! * x.shape[3]!]);

/** What hides keys: an added mask, and one of flags. */
interface Masks {
  readonly bias: Tensor | undefined;
  readonly mask: Tensor | undefined;
}

/** The given mask, for all keys: those past its end are hidden. */
function givenMask(node: OnnxNode, keys: number): Masks {
  const array = node.array(3);
  if (!array) return { bias: undefined, mask: undefined };
  const flags = array.dtype === "BOOL";
  const tensor = flags ? node.need(3) : node.float(3)!;
  const missing = keys - tensor.shape.at(-1)!;
  const whole = missing > 0 ? pad(tensor, -1, 0, missing, flags ? 0 : -Infinity) : tensor;
  return flags ? { bias: undefined, mask: whole } : { bias: whole, mask: undefined };
}

/** i32 [batch, 1, queries, keys]: what the causal rule and the lengths of padded keys leave. */
function lengthMask(
  node: OnnxNode,
  lengths: readonly number[],
  queries: number,
  keys: number,
  causal: boolean,
): Tensor {
  const flags = lengths.flatMap((length) =>
    Array.from({ length: queries * keys }, (_, i) => {
      const [query, key] = [Math.floor(i / keys), i % keys];
      return key < length && (!causal || key <= query + length - queries) ? 1 : 0;
    }),
  );
  return node.gpu.tensor(flags, [lengths.length, 1, queries, keys], "i32");
}

const attention: OnnxMapping = (node) => {
  node.number("softmax_precision", 1);
  const flat = node.need(0).rank === 3;
  const heads = [
    node.number("q_num_heads", 0),
    node.number("kv_num_heads", 0),
    node.number("kv_num_heads", 0),
  ];
  const [q, newK, newV] = heads.map((n, i) => (flat ? splitHeads(node.need(i), n) : node.need(i))) as [
    Tensor,
    Tensor,
    Tensor,
  ];
  const [pastK, pastV] = [node.input(4), node.input(5)];
  const k = pastK ? concat([pastK, newK], 2) : newK;
  const v = pastV ? concat([pastV, newV], 2) : newV;
  const [queries, keys] = [q.shape[2]!, k.shape[2]!];
  const causal = node.flag("is_causal");
  const lengths = node.host(6);
  const scale = node.number("scale", q.shape[3]! ** -0.5);
  const softcap = node.number("softcap", 0);
  const { bias, mask } = givenMask(node, keys);
  const hidden = lengths && lengthMask(node, lengths, queries, keys, causal);
  const visible = mask && hidden ? cast(mul(mask, hidden), "i32") : (mask ?? hidden);
  const queryOffset = pastK ? pastK.shape[2]! : 0;
  const { out, lse } = attentionOutputs(q, k, v, {
    scale,
    softcap,
    causal: causal && !lengths,
    queryOffset,
    bias,
    mask: visible,
  });
  // Read as well where nothing asks for the scores: the mode is an attribute of the node.
  const mode = node.number("qk_matmul_output_mode", 0);
  const scores = (): Tensor => {
    const group = q.shape[1]! / k.shape[1]!;
    const all = group === 1 ? k : repeat(k, group, 1);
    const raw = matmul(cast(q, "f32"), cast(all, "f32"), { transposeB: true, alpha: scale });
    if (mode === 0) return raw;
    const capped = softcap > 0 ? mul(tanh(mul(raw, 1 / softcap)), softcap) : raw;
    if (mode === 1) return capped;
    const biased = bias ? add(capped, bias) : capped;
    const offset = Array.from({ length: queries * keys }, (_, i) =>
      i % keys <= Math.floor(i / keys) + queryOffset ? 0 : -Infinity,
    );
    const late = causal && !lengths ? add(biased, node.gpu.tensor(offset, [queries, keys])) : biased;
    const masked = visible ? where(visible, late, -Infinity) : late;
    if (mode === 2) return masked;
    const total = lse.reshape([...lse.shape, 1]);
    return where(greater(total, -3e38), exp(sub(masked, total)), 0);
  };
  return [
    flat ? mergeHeads(out) : out,
    node.wants(1) ? k : undefined,
    node.wants(2) ? v : undefined,
    node.wants(3) ? cast(scores(), q.dtype) : undefined,
  ];
};

const rotary: OnnxMapping = (node) => {
  const x = node.need(0);
  const heads = node.number("num_heads", 0);
  node.number("rotary_embedding_dim", 0);
  const flat = x.rank === 3;
  const shaped = flat ? x.reshape([x.shape[0]!, x.shape[1]!, heads, x.shape[2]! / heads]) : x;
  const out = rotate(shaped, {
    cos: node.float(1)!,
    sin: node.float(2)!,
    positionIds: node.input(3),
    interleaved: node.flag("interleaved"),
    layout: flat ? "bshd" : "bhsd",
  });
  return [out.reshape(x.shape)];
};

/** Channels before places; the library has them last. */
const convolution: OnnxMapping = (node) => {
  const turned = (t: Tensor): Tensor => transpose(t, [0, 2, 1]);
  const weight = node.need(1);
  const past = node.input(3);
  const { out, state } = causalConv1d(
    turned(node.need(0)),
    weight.reshape([weight.shape[0]!, weight.shape[2]!]),
    {
      bias: node.input(2),
      state: past && turned(past),
    },
  );
  const name = node.text("activation", "none");
  if (!["none", "silu", "swish"].includes(name)) throw new NotExpressible(`the activation ${name}`);
  return [turned(name === "none" ? out : silu(out)), turned(state)];
};

/** Heads lie side by side in the last axis; the operations take f32, so f16 is widened and the results narrowed. */
const linear: OnnxMapping = (node) => {
  const rule = node.text("update_rule", "gated_delta");
  const [queryHeads, heads] = [node.number("q_num_heads", 1), node.number("kv_num_heads", 1)];
  const scale = node.number("scale", 0);
  // How the sequence is cut does not change the result.
  node.number("chunk_size", 64);
  const split = (i: number, count: number): Tensor => {
    const x = node.float(i);
    if (!x) throw new Error(`input ${String(i)} is missing`);
    return x.reshape([x.shape[0]!, x.shape[1]!, count, x.shape[2]! / count]);
  };
  const [q, k, v] = [split(0, queryHeads), split(1, heads), split(2, heads)];
  const perHead = v.shape.slice(0, 3);
  const options = { layout: "bshd", state: node.float(3), ...(scale === 0 ? {} : { scale }) } as const;
  /** The log decay: of each channel, or of each head. */
  const decay = (): Tensor => {
    const g = split(4, heads);
    return g.shape[3] === 1 ? g.reshape(perHead) : g;
  };
  const beta = (): Tensor => broadcastTo(node.float(5)!, perHead);
  const run = (): { out: Tensor; state: Tensor } => {
    switch (rule) {
      case "linear":
        return gatedLinearAttention(q, k, v, node.gpu.zeros(perHead), options);
      case "gated":
        return gatedLinearAttention(q, k, v, decay(), options);
      case "delta":
        return deltaRule(q, k, v, beta(), options);
      case "gated_delta": {
        const g = decay();
        return (g.rank === 4 ? kda : gatedDeltaRule)(q, k, v, g, beta(), options);
      }
      default:
        throw new NotExpressible(`the update rule "${rule}"`);
    }
  };
  const { out, state } = run();
  const given = node.need(0).dtype;
  const [batch, tokens, outHeads, dim] = out.shape as [number, number, number, number];
  return [cast(out, given).reshape([batch, tokens, outHeads * dim]), cast(state, given)];
};

/** Attention and the operators round it. */
export const attentionOperators: OnnxMappings = {
  Attention: attention,
  RotaryEmbedding: rotary,
  CausalConvWithState: convolution,
  LinearAttention: linear,
};
