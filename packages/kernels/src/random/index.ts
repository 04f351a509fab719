export { dropout, randomNormal, randomUniform, type RandomOptions } from "./random.js";
export { repetitionPenalty, sample, type SampleOptions } from "../ops/sample.js";
