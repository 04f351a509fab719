import { checkConfig, ConfigError, expectInteger, expectNumber } from "@x/kernels";
import { inverseFrequencies, type RopeBase, type RopeFrequencies } from "../frequencies.js";

/** LongRoPE: a searched divisor for each pair, one list within the trained length and one beyond. */
export interface LongropeScaling {
  readonly type: "longrope";
  /** One divisor per feature pair, up to the trained length. */
  readonly shortFactor: readonly number[];
  /** The same beyond it. */
  readonly longFactor: readonly number[];
  readonly originalMaxPositionEmbeddings: number;
  readonly maxPositionEmbeddings?: number;
  /** New length / trained length; default maxPositionEmbeddings / originalMaxPositionEmbeddings. */
  readonly factor?: number;
  /** Default sqrt(1 + ln(factor) / ln(L)); one number, or one for each list. */
  readonly attentionFactor?: number | { readonly short: number; readonly long: number };
}

/** invFreq_i = theta_i / factor_i. Ding et al. 2024, arXiv:2402.13753; Phi-3, arXiv:2404.14219. */
export function longropeFrequencies(base: RopeBase, scaling: LongropeScaling): RopeFrequencies {
  const who = "rope longrope";
  checkConfig(who, scaling, [
    "type",
    "shortFactor",
    "longFactor",
    "originalMaxPositionEmbeddings",
    "maxPositionEmbeddings",
    "factor",
    "attentionFactor",
  ]);
  const {
    shortFactor,
    longFactor,
    originalMaxPositionEmbeddings: L,
    maxPositionEmbeddings,
    attentionFactor,
  } = scaling;
  // ln L divides: the temperature of one position is undefined.
  expectInteger(who, "originalMaxPositionEmbeddings", L, 2);
  const long = base.seqLen > L;
  for (const [name, list] of Object.entries({ shortFactor, longFactor })) {
    if (!Array.isArray(list) || list.length !== base.d / 2) {
      throw new ConfigError(
        who,
        `${name} has ${Array.isArray(list) ? list.length : "no"} entries; it must have ${base.d / 2}, one per feature pair`,
      );
    }
    for (const x of list as readonly unknown[]) expectNumber(who, name, x, Number.MIN_VALUE);
  }
  const ratio = scaling.factor ?? (maxPositionEmbeddings === undefined ? 1 : maxPositionEmbeddings / L);
  expectNumber(who, "factor", ratio, Number.MIN_VALUE);
  if (typeof attentionFactor === "object")
    checkConfig(`${who}: attentionFactor`, attentionFactor, ["short", "long"]);
  const given =
    typeof attentionFactor === "object" ? attentionFactor[long ? "long" : "short"] : attentionFactor;
  if (given !== undefined) expectNumber(who, "attentionFactor", given);
  const list = long ? longFactor : shortFactor;
  return {
    invFreq: inverseFrequencies(base).map((theta, i) => theta / list[i]!),
    attentionFactor: given ?? (ratio <= 1 ? 1 : Math.sqrt(1 + Math.log(ratio) / Math.log(L))),
  };
}
