import type { AttentionParts, HeadNorm } from "@x/attention";
import { QKNorm, type QKNormConfig } from "@x/norm";
import { expectObject, Fields, type ComponentSpec } from "../../config/index.js";
import type { AttentionShape, Weights } from "../contract.js";
import { below, find } from "../find.js";
import { ParameterSet } from "../parameters.js";

/**
 * The norms of an attention's queries and keys: `type` "l2", or that of a norm with its keys, and `scope`: "head", each
 * head by itself, "each", the same with weights for each head (StableLM), or "all", one statistic over the heads of a
 * token (OLMo 2). `eps` is 1e-6 for rms, layer and gemma.
 *
 * "l2" gives queries and keys of length 1 and scores g q.k without 1 / sqrt(headDim): `perHead` (false: one g for all
 * heads), `length` (the model's: g starts at log2(length^2 - length)).
 *
 * @throws ConfigError
 */
export function queryKeyNorms(
  given: unknown,
  weights: Weights,
  { numHeads, numKvHeads, headDim }: AttentionShape,
): Pick<AttentionParts, "q_norm" | "k_norm"> {
  const who = `${weights.name}: qkNorm`;
  const json = expectObject(who, given);
  const f = new Fields(who, json);
  const without = (...keys: string[]): Readonly<Record<string, unknown>> =>
    Object.fromEntries(Object.entries(json).filter(([key]) => !keys.includes(key)));
  const scope = f.oneOf("scope", ["head", "each", "all"], "head");
  const type = f.text("type");
  if (type === "l2" && scope !== "head")
    f.fail("scope", `is "${scope}"; the type "l2" takes each head by itself`);
  if (type === "batch") f.fail("type", `is "batch"; a query's norm sees its own token alone`);

  const packaged = (name: string, heads: number): HeadNorm => {
    const g = name === "k_norm" ? "none" : f.flag("perHead", false) ? "head" : "one";
    const l2 = { length: weights.model.maxLength, ...without("type", "scope", "perHead"), g };
    const own = type === "l2" ? l2 : without("type", "scope");
    const config = { ...own, kind: type, scope, headDim, numHeads: heads } as QKNormConfig;
    return new QKNorm(config, new ParameterSet(below(weights, name)).planned(QKNorm.plan(config)));
  };
  const listed = (name: string, heads: number): HeadNorm => {
    const spec: ComponentSpec = {
      ...(["rms", "layer", "gemma"].includes(type) ? { eps: 1e-6 } : {}),
      ...without("scope"),
      type,
    };
    const width = scope === "all" ? heads * headDim : headDim;
    const norm: HeadNorm = find(
      "norm",
      weights.components.norms,
      spec,
      weights.name,
    )(spec, below(weights, name), width);
    if (scope === "head") return norm;
    return {
      forward: (x, context) =>
        norm.forward(x.reshape([...x.shape.slice(0, 2), width]), context).reshape(x.shape),
      parameters: () => norm.parameters(),
      buffers: () => norm.buffers?.() ?? {},
    };
  };
  const side = type === "l2" || scope === "each" ? packaged : listed;
  return { q_norm: side("q_norm", numHeads), k_norm: side("k_norm", numKvHeads) };
}
