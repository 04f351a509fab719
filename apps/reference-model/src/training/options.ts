import { checkConfig, expectInteger, expectNumber } from "@x/kernels";

export interface TrainingOptions {
  readonly steps: number;
  readonly batch: number;
  readonly seqLen: number;
  readonly learningRate: number;
  readonly warmup: number;
  /** Share of the learning rate at the last step. */
  readonly finalRate: number;
  readonly weightDecay: number;
  readonly clip: number;
  readonly seed: number;
  /** Share of the documents that is kept for validation. */
  readonly validation: number;
  /** Share of the sequences that begin where a document begins; the others begin anywhere. */
  readonly documentStarts: number;
  readonly evaluateEvery: number;
  readonly saveEvery: number;
}

export const TRAINING_DEFAULTS: TrainingOptions = {
  steps: 1000,
  batch: 16,
  seqLen: 128,
  learningRate: 3e-3,
  warmup: 50,
  finalRate: 0.1,
  weightDecay: 0.1,
  clip: 1,
  seed: 1,
  validation: 0.02,
  documentStarts: 0,
  evaluateEvery: 100,
  saveEvery: 100,
};

/** The option of a key on the command line: learningRate -> --learning-rate. */
export const optionOf = (key: string): string => `--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;

/** @throws ConfigError naming the option as the command line does */
export function checkOptions(options: TrainingOptions): void {
  const who = "train";
  checkConfig(who, options, Object.keys(TRAINING_DEFAULTS));
  for (const key of ["steps", "batch", "seqLen", "evaluateEvery", "saveEvery"] as const)
    expectInteger(who, optionOf(key), options[key], 1);
  for (const key of ["warmup", "seed"] as const) expectInteger(who, optionOf(key), options[key], 0);
  for (const key of ["learningRate", "weightDecay", "clip"] as const)
    expectNumber(who, optionOf(key), options[key], 0);
  expectNumber(who, optionOf("finalRate"), options.finalRate, 0, 1);
  expectNumber(who, optionOf("validation"), options.validation, 0, 0.5);
  expectNumber(who, optionOf("documentStarts"), options.documentStarts, 0, 1);
}
