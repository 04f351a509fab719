import type { Tensor } from "@x/kernels";
import { QKNorm } from "@x/norm";
import { expectObject, Fields, type ComponentSpec } from "../../config/index.js";
import type { ForwardContext, Part, Weights } from "../contract.js";
import { below, find } from "../find.js";
import { ParameterSet } from "../parameters.js";

/** Queries and keys [batch, seq, heads, headDim] before their rotation and their product. */
export interface QueryKeyNorm extends Part {
  forward(q: Tensor, k: Tensor, context: ForwardContext): { q: Tensor; k: Tensor };
  /** The factor of the scores, where the norm has one of its own. */
  readonly scale: number | undefined;
}

interface Heads {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

/**
 * `l2`: queries and keys of length 1, and scores g q.k without 1 / sqrt(headDim): `eps` (1e-12), `perHead` (false: one
 * g for all heads), `length` (the model's: g starts at log2(length^2 - length)). Henry et al. 2020, arXiv:2010.04245.
 */
function l2(f: Fields, weights: Weights, heads: Heads): QueryKeyNorm {
  const config = {
    kind: "l2",
    eps: f.number("eps", 1e-12),
    length: f.integer("length", weights.model.maxLength, 2),
    gPerHead: f.flag("perHead", false),
    ...heads,
  } as const;
  const set = new ParameterSet(below(weights, "qk_norm"));
  const norm = new QKNorm(config, set.planned(QKNorm.plan(config)));
  return {
    scale: norm.scale,
    forward: (q, k) => norm.forward(q, k),
    parameters: () => ({ "qk_norm.g": norm.parameters()["g"]! }),
  };
}

/**
 * The norm of an attention's queries and keys: `type` "l2", or that of a norm with its keys, and `scope`: "head", each head by
 * itself, or "all", one statistic over the heads of a token (OLMo 2), with a weight for each feature of each head.
 * `eps` is 1e-6 for rms, layer and gemma.
 *
 * @throws ConfigError
 */
export function queryKeyNorm(given: unknown, weights: Weights, heads: Heads): QueryKeyNorm {
  const who = `${weights.name}: qkNorm`;
  const json = expectObject(who, given);
  const scope = new Fields(who, json).oneOf("scope", ["head", "all"], "head");
  const spec: ComponentSpec = {
    ...Object.fromEntries(Object.entries(json).filter(([key]) => key !== "scope")),
    type: new Fields(who, json).text("type"),
  };
  if (spec.type === "l2") {
    if (scope === "all")
      new Fields(who, spec).fail("scope", `is "all"; the type "l2" takes each head by itself`);
    return l2(new Fields(who, spec, ["type", "eps", "perHead", "length"]), weights, heads);
  }
  const make = find("norm", weights.components.norms, spec, weights.name);
  if (spec.type === "batch")
    new Fields(who, spec).fail("type", `is "batch"; a query's norm sees its own token alone`);
  const own = { ...(["rms", "layer", "gemma"].includes(spec.type) ? { eps: 1e-6 } : {}), ...spec };
  const side = (name: string, count: number) => {
    const width = scope === "all" ? count * heads.headDim : heads.headDim;
    const norm = make(own, below(weights, name), width);
    return {
      forward: (x: Tensor, context: ForwardContext): Tensor =>
        scope === "head"
          ? norm.forward(x, context)
          : norm.forward(x.reshape([...x.shape.slice(0, 2), width]), context).reshape(x.shape),
      parameters: () =>
        Object.entries(norm.parameters()).map(([key, t]): [string, Tensor] => [`${name}.${key}`, t]),
    };
  };
  const [query, key] = [side("q_norm", heads.numHeads), side("k_norm", heads.numKvHeads)];
  return {
    scale: undefined,
    forward: (q, k, context) => ({ q: query.forward(q, context), k: key.forward(k, context) }),
    parameters: () => Object.fromEntries([...query.parameters(), ...key.parameters()]),
  };
}
