import { checkConfig, expectNumber } from "@x/kernels";
import { inverseFrequencies, type RopeBase, type RopeFrequencies } from "../frequencies.js";

/** SuperHOT: positions are multiplied by a constant (8K from 2K: 0.25). */
export interface SuperhotScaling {
  readonly type: "superhot";
  /** Default 0.25. */
  readonly positionScale?: number;
}

/** invFreq_i = theta_i positionScale. kaiokendev 2023. */
export function superhotFrequencies(base: RopeBase, scaling: SuperhotScaling): RopeFrequencies {
  checkConfig("rope superhot", scaling, ["type", "positionScale"]);
  const { positionScale = 0.25 } = scaling;
  expectNumber("rope superhot", "positionScale", positionScale, Number.MIN_VALUE, 1);
  return { invFreq: inverseFrequencies(base).map((theta) => theta * positionScale), attentionFactor: 1 };
}
