import { applyOp, defineKernel, grid1d, type Gpu, type Kernel, type Tensor, flatMain } from "@x/kernels";

/** Where the first token of a call stands: a number, or f32 [1] on the device, which a recorded step reads anew. */
export type FirstPosition = number | Tensor;

/** Rows of each of two tables: position = ROWS a + b. */
const ROWS = 512;
/** Positions that can be turned to. */
export const MAX_POSITIONS: number = ROWS * ROWS;

interface RotateVariant {
  readonly onDevice: boolean;
  /** The transpose: turns back. */
  readonly back: boolean;
}

/** q, k [batch, tokens, heads, pairs] of (re, im), one thread for a pair of both. */
const rotateKernel: Kernel<RotateVariant> = defineKernel({
  name: "rotate",
  bindings: (v: RotateVariant) => ({
    q: "read vec2<f32>" as const,
    k: "read vec2<f32>" as const,
    coarse: "read vec2<f32>" as const,
    fine: "read vec2<f32>" as const,
    ...(v.onDevice ? { first: "read f32" as const } : {}),
    q_out: "write vec2<f32>" as const,
    k_out: "write vec2<f32>" as const,
  }),
  params: { count: "u32", tokens: "u32", heads: "u32", pairs: "u32", offset: "u32" },
  wgsl: (v) => /* wgsl */ `
fn turn(z: vec2f, w: vec2f) -> vec2f { return vec2f(z.x * w.x - z.y * w.y, z.x * w.y + z.y * w.x); }
${flatMain("i", "params.count")}
  let pair = i % params.pairs;
  let t = i / params.pairs / params.heads % params.tokens;
  let position = t + ${v.onDevice ? "u32(first[0])" : "params.offset"};
  var angle = turn(coarse[position / ${ROWS}u * params.pairs + pair], fine[position % ${ROWS}u * params.pairs + pair]);
  ${v.back ? "angle.y = -angle.y;" : ""}
  q_out[i] = turn(q[i], angle);
  k_out[i] = turn(k[i], angle);
}`,
});

/**
 * Turns pairs (2i, 2i+1) of queries and keys by position * frequency_i. The angles of 512 a and b < 512 come from tables
 * in double precision and are added by a product, so that tables of one size reach positions up to 2^18.
 */
export class Rotation {
  readonly #frequencies: readonly number[];
  #tables: { readonly coarse: Tensor; readonly fine: Tensor } | undefined;

  constructor(frequencies: readonly number[]) {
    this.#frequencies = frequencies;
  }

  /** q, k [batch, tokens, heads, dim]. */
  apply(q: Tensor, k: Tensor, first: FirstPosition): [q: Tensor, k: Tensor] {
    const { gpu } = q;
    const { coarse, fine } = this.#tablesFor(gpu);
    const [, tokens, heads] = q.shape as [number, number, number];
    const count = q.size / 2;
    const turned = (a: Tensor, b: Tensor, back: boolean): Tensor[] => {
      const out = [gpu.empty(q.shape), gpu.empty(q.shape)] as const;
      const onDevice = typeof first !== "number";
      gpu.run(rotateKernel, {
        variant: { onDevice, back },
        bindings: {
          q: a,
          k: b,
          coarse,
          fine,
          first: onDevice ? first : undefined,
          q_out: out[0],
          k_out: out[1],
        },
        params: {
          count,
          tokens,
          heads,
          pairs: this.#frequencies.length,
          offset: onDevice ? 0 : first,
        },
        workgroups: grid1d(Math.ceil(count / 64)),
      });
      return [...out];
    };
    return applyOp({
      name: "rotate",
      // The tables too, which the backward reads.
      inputs: [q, k, coarse, fine, ...(typeof first === "number" ? [] : [first])],
      forward: () => ({ outputs: turned(q, k, false) }),
      backward: ({ grads: [dq, dk] }) => turned(dq ?? gpu.zeros(q.shape), dk ?? gpu.zeros(q.shape), true),
    }) as [Tensor, Tensor];
  }

  #tablesFor(gpu: Gpu): { readonly coarse: Tensor; readonly fine: Tensor } {
    const table = (step: number): Tensor => {
      const pairs = this.#frequencies.length;
      const data = Float32Array.from({ length: ROWS * pairs * 2 }, (_, i) => {
        const pair = i >> 1;
        const angle = Math.floor(pair / pairs) * step * this.#frequencies[pair % pairs]!;
        return i % 2 === 0 ? Math.cos(angle) : Math.sin(angle);
      });
      return gpu.keep(gpu.tensor(data, [ROWS, pairs, 2]));
    };
    return (this.#tables ??= { coarse: table(ROWS), fine: table(1) });
  }

  dispose(): void {
    this.#tables?.coarse.dispose();
    this.#tables?.fine.dispose();
    this.#tables = undefined;
  }
}
