import {
  applyOp,
  defineKernel,
  e,
  elementwise,
  expectShape,
  grid1d,
  mul,
  sum,
  sumToShape,
  oneOf,
  schema,
  tensor,
  type Expr,
  type Kernel,
  type Tensor,
  type Config,
} from "@x/kernels";
import { runChannelDecayGradient, type TokenRows } from "../decay/decay_gradient.js";
import { expectFloat32, expectSome } from "../decay/decayed_attention.js";
import {
  rwkv6Scan,
  rwkv6Walk,
  scanBindings,
  scanParams,
  walkBindings,
  walkParams,
  type ChunkScanVariant,
  type WalkVariant,
} from "./rwkv6.wgsl.js";

/** Tokens that a thread walks. */
const CHUNK = 64;

const walkKernel: Kernel<WalkVariant> = defineKernel({
  name: "rwkv6",
  bindings: walkBindings,
  params: walkParams,
  wgsl: rwkv6Walk,
});
const scanKernel: Kernel<ChunkScanVariant> = defineKernel({
  name: "rwkv6Scan",
  bindings: scanBindings,
  params: scanParams,
  wgsl: rwkv6Scan,
});

/** e^w, where the decay e^(-e^w) is 0 long before the exponential overflows. */
const rateOf = (w: Expr): Expr => e.exp(e.min(w, 80));
const decayOf = elementwise("rwkv6Decays", ["w"], (w) => e.exp(e.neg(rateOf(w))));
/** The slope of the decay is -e^(w - e^w): of a decay that is 0 it is 0, and not 0 times e^w. */
const toW = elementwise("rwkv6DecaysBackward", ["w", "gradient"], (w, g) =>
  e.neg(e.mul(e.exp(e.sub(w, rateOf(w))), g)),
);
const times = elementwise("rwkv6Bonus", ["r", "k", "c"], (r, k, c) => e.mul(e.mul(r, k), c));

const OPTIONS = schema("rwkv6", {
  state: tensor("S before the first token, [batch, heads, dim, dim], keys first.", { defaultDoc: "zeros" }),
  layout: oneOf('"bshd": tokens before heads.', ["bhsd", "bshd"], { default: "bhsd" }),
});
export type Rwkv6Options = Config<typeof OPTIONS>;

/**
 * RWKV-6's operator: linear attention whose state decays by channel of the keys, with a bonus u for the current token,
 *
 *   out_t = r_t (S_{t-1} + diag(u) k_t^T v_t), S_t = diag(exp(-exp(w_t))) S_{t-1} + k_t^T v_t.
 *
 * r, k, v, w [batch, heads, tokens, dim], u [heads, dim], all f32. Gives out and the state [batch, heads, dim, dim] after the
 * last token, which continues the sequence. Differentiable in all of them. Longer sequences go in chunks of 64: what each
 * adds to the state, a scan, and all chunks at once from their states; no exponential of a sum is formed. The gradient of
 * w sums the terms that pass through the decay: see `channelDecayGradient`.
 * Peng et al. 2024, arXiv:2404.05892, section 4.
 *
 * @throws ConfigError, DTypeError, ShapeError
 */
export function rwkv6(
  r: Tensor,
  k: Tensor,
  v: Tensor,
  w: Tensor,
  u: Tensor,
  options: Rwkv6Options = {},
): { out: Tensor; state: Tensor } {
  const who = OPTIONS.name;
  const { state, layout } = OPTIONS.read(options);
  const order = layout === "bhsd" ? ["batch", "heads", "tokens", "dim"] : ["batch", "tokens", "heads", "dim"];
  const names = expectShape(who, "r", r, order);
  for (const [name, t] of Object.entries({ k, v, w })) expectShape(who, name, t, order, names);
  expectShape(who, "u", u, ["heads", "dim"], names);
  if (state) expectShape(who, "state", state, ["batch", "heads", "dim", "dim"], names);
  expectFloat32(who, { r, k, v, w, u, state });
  expectSome(who, { r });
  const { gpu } = r;
  const { batch, heads, tokens, dim } = names as Record<"batch" | "heads" | "tokens" | "dim", number>;
  const chunk = Math.min(CHUNK, tokens);
  const chunks = Math.ceil(tokens / chunk);
  const stride =
    layout === "bhsd"
      ? [heads * tokens * dim, tokens * dim, dim, 0]
      : [heads * tokens * dim, dim, heads * dim, 0];
  const sizes = { stride, heads, tokens, chunk, chunks, dim, count: batch * heads * chunks * dim };
  const workgroups = grid1d(Math.ceil(sizes.count / 64));
  const common = {
    vec: dim % 4 === 0,
    pieces: Math.ceil(dim / 4),
    registers: !gpu.info.software,
    gains: false,
  };

  /** x_t . (M + u y_t z_t) for every token, and where asked the last M. */
  const walk = (
    ofValues: boolean,
    [x, y, z]: readonly [Tensor, Tensor, Tensor],
    decay: Tensor,
    start: Tensor | undefined,
    { reverse = false, matrix = false } = {},
  ): { out: Tensor; last: Tensor | undefined } => {
    const out = gpu.empty(r.shape);
    const last = matrix ? gpu.empty([batch, heads, dim, dim]) : undefined;
    gpu.run(walkKernel, {
      variant: { ...common, reverse, ofValues, initial: start !== undefined, rows: true, matrix },
      bindings: { xs: x, bonus: u, ys: y, zs: z, decay, start, out, last },
      params: sizes,
      workgroups,
    });
    return { out, last };
  };

  /** The state before each chunk and after all; in reverse after each and before all. */
  const states = (
    [y, z]: readonly [Tensor, Tensor],
    decay: Tensor,
    start: Tensor | undefined,
    reverse: boolean,
  ): { each: Tensor; last: Tensor } => {
    const each = gpu.empty([batch, heads, chunks, dim, dim]);
    const gains = gpu.empty([batch, heads, chunks, dim]);
    const last = gpu.empty([batch, heads, dim, dim]);
    gpu.run(walkKernel, {
      variant: { ...common, reverse, ofValues: true, initial: false, rows: false, matrix: true, gains: true },
      bindings: { ys: y, zs: z, decay, last: each, gains },
      params: sizes,
      workgroups,
    });
    gpu.run(scanKernel, {
      variant: { initial: start !== undefined, reverse },
      bindings: { start, gains, each, last },
      params: { count: last.size, size: dim * dim, dim, chunks },
      workgroups: grid1d(Math.ceil(last.size / 64)),
    });
    return { each, last };
  };

  const [out, next] = applyOp({
    name: who,
    inputs: [r, k, v, w, u, state],
    forward: () => {
      const decay = decayOf(w);
      if (chunks === 1) {
        const { out, last } = walk(true, [r, k, v], decay, state, { matrix: true });
        return { outputs: [out, last!], saved: [decay] };
      }
      const { each, last } = states([k, v], decay, state, false);
      const { out } = walk(true, [r, k, v], decay, each);
      return { outputs: [out, last], saved: [decay, each] };
    },
    backward: ({ grads, saved, needs }) => {
      const [dout = gpu.zeros(r.shape), dlast] = grads;
      const [decay, each] = saved as [Tensor, Tensor | undefined];
      const before = each ?? state;
      const [forR, forK, forV, forW, forU, forState] = needs;
      const many = chunks > 1;
      const back = many || forState ? states([r, dout], decay, dlast, true) : undefined;
      const after = many ? back!.each : dlast;
      const reverse = { reverse: true };
      const dr = forR ? walk(false, [dout, v, k], decay, before).out : undefined;
      const dk = forK ? walk(false, [v, dout, r], decay, after, reverse).out : undefined;
      const dv = forV ? walk(true, [k, r, dout], decay, after, reverse).out : undefined;
      // The bonus of each token: u times r k (v . dout).
      const beside = u.reshape(layout === "bhsd" ? [heads, 1, dim] : [heads, dim]);
      const bonus = forU ? times(r, k, sum(mul(v, dout), { axes: -1, keepDims: true })) : undefined;
      let dw: Tensor | undefined;
      if (forW) {
        const gradient = gpu.empty(w.shape);
        const rows = (tensor: Tensor): TokenRows => ({ tensor, stride: [...stride.slice(0, 3), 1] });
        runChannelDecayGradient({
          ...{ x: rows(r), y: rows(dout), k: rows(k), v: rows(v), decay: rows(decay), out: rows(gradient) },
          ...{ states: before, dstates: after, batch, heads, tokens, chunk, dim, valueDim: dim },
          ...{ xScale: 1, kScale: 1, shift: 1 },
        });
        dw = toW(w, gradient);
      }
      const du = forU ? sumToShape(bonus!, beside.shape).alias(u.shape) : undefined;
      return [dr, dk, dv, dw, du, forState ? back!.last : undefined];
    },
  }) as [Tensor, Tensor];
  return { out, state: next };
}
