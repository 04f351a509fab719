export {
  RelativeIndex,
  type ScoreModifier,
  type PointwiseModifier,
  type RelativeModifier,
  type RelativeAxes,
} from "./score_modifier.js";
