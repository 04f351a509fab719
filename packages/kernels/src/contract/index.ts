export { GATED_UNIT_FIELDS, gatedUnit, type GatedUnitNumbers } from "./gated_unit.js";
export {
  RelativeIndex,
  type ScoreModifier,
  type PointwiseModifier,
  type RelativeModifier,
  type RelativeAxes,
} from "./score_modifier.js";
