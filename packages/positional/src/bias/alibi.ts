import {
  e,
  expectGpu,
  expectInteger,
  input,
  number,
  schema,
  type Config,
  type Gpu,
  type PointwiseModifier,
} from "@x/kernels";

const OPTIONS = schema("alibi", {
  maxBias: number("Exponent of the last head's slope, 2^-maxBias (MPT's alibi_bias_max).", {
    min: Number.MIN_VALUE,
    default: 8,
  }),
});
export type AlibiOptions = Config<typeof OPTIONS>;

/**
 * Returns the slopes of ALiBi: m_h = 2^(-maxBias (h + 1) / H) for a power of two; otherwise those of the largest power
 * of two P below H, then every second one of 2 P heads.
 *
 * @throws ConfigError
 */
export function alibiSlopes(heads: number, options: AlibiOptions = {}): Float64Array {
  expectInteger("alibiSlopes", "heads", heads, 1);
  const { maxBias } = OPTIONS.read(options, "alibiSlopes");
  const power = 2 ** Math.floor(Math.log2(heads));
  const plain = (n: number): number[] => Array.from({ length: n }, (_, h) => 2 ** ((-maxBias * (h + 1)) / n));
  const rest = plain(2 * power)
    .filter((_, i) => i % 2 === 0)
    .slice(0, heads - power);
  return Float64Array.from([...plain(power), ...rest]);
}

const expr = e.sub(input("score"), e.mul(input("slope"), e.abs(input("distance"))));

/**
 * ALiBi: score' = score - m_h |distance|; causal and symmetric use differ by the mask alone. Keep the modifier and
 * use it for every layer; dispose `slopes` at the end.
 *
 * Press et al. 2022, arXiv:2108.12409, section 3.
 *
 * @throws ConfigError
 */
export function alibi(
  gpu: Gpu,
  heads: number,
  options: AlibiOptions = {},
): PointwiseModifier & { readonly slopes: NonNullable<PointwiseModifier["slopes"]> } {
  expectGpu("alibi", gpu);
  return {
    kind: "pointwise",
    name: "alibi",
    expr,
    slopes: gpu.keep(gpu.tensor(alibiSlopes(heads, options), [heads])),
  };
}
