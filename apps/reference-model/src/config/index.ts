import { expectObject, Fields } from "./fields.js";
import { FAMILIES, fromHuggingFace } from "./huggingface.js";
import type { ModelConfig } from "./model_config.js";
import { fromParts, PARTS_FAMILY } from "./parts.js";

export type { ComponentSpec, ModelConfig } from "./model_config.js";
export { PARTS_FAMILY } from "./parts.js";
export { configOf, expectObject, Fields } from "./fields.js";

/** A model's configuration from a `config.json`: of a public family, or one that names its parts. */
export function modelConfig(json: unknown, file = "config.json"): ModelConfig {
  const f = new Fields(file, expectObject(file, json));
  const family = f.oneOf("model_type", [...FAMILIES, PARTS_FAMILY]);
  return family === PARTS_FAMILY ? fromParts(json, file) : fromHuggingFace(json, file);
}
