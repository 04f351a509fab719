export type { ComponentSpec, EncoderDecoderConfig, LayerSpec, ModelConfig } from "./model_config.js";
export { fromParts, PARTS_FAMILY } from "./parts.js";
export { configOf, expectObject, Fields } from "./fields.js";
