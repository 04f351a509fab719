export { AdamW, type AdamWOptions, type StepOptions } from "./adamw.js";
export { clipGradNorm } from "./clip.js";
export {
  constantSchedule,
  cosineSchedule,
  inverseSqrtSchedule,
  linearSchedule,
  warmupStableDecaySchedule,
  type Schedule,
} from "./schedules.js";
