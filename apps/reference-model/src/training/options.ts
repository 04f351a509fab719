import { checkConfig, integer, number, schema, type Resolved } from "@x/kernels";

/** What a run of training may be told; the command line's options, their help and their ranges come from here. */
export const TRAINING = schema("train", {
  steps: integer("steps of the optimizer", { min: 1, default: 1000 }),
  batch: integer("sequences of a step", { min: 1, default: 16 }),
  seqLen: integer("tokens of a sequence", { min: 1, default: 128 }),
  learningRate: number("of AdamW, at its highest", { min: 0, default: 3e-3 }),
  warmup: integer("steps in which the learning rate rises", { min: 0, default: 50 }),
  finalRate: number("share of the learning rate at the last step; a cosine leads there", {
    min: 0,
    max: 1,
    default: 0.1,
  }),
  weightDecay: number("of the matrices, times the learning rate", { min: 0, default: 0.1 }),
  clip: number("norm of all gradients at most", { min: 0, default: 1 }),
  seed: integer("of the weights and the order of the text", { min: 0, default: 1 }),
  validation: number("share of the documents that is kept for validation", {
    min: 0,
    max: 0.5,
    default: 0.02,
  }),
  documentStarts: number(
    "share of the sequences that begin where a document begins; the others begin anywhere",
    { min: 0, max: 1, default: 0 },
  ),
  evaluateEvery: integer("steps from one validation to the next", { min: 1, default: 100 }),
  saveEvery: integer("steps from one save of the run to the next", { min: 1, default: 100 }),
});
export type TrainingOptions = Resolved<typeof TRAINING>;

export const TRAINING_DEFAULTS: TrainingOptions = TRAINING.read({});

/** The option of a key on the command line: learningRate -> --learning-rate. */
export const optionOf = (key: string): string => `--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;

/** @throws ConfigError naming the option as the command line does */
export function checkOptions(options: TrainingOptions): void {
  checkConfig(TRAINING.name, options, TRAINING.keys);
  for (const key of Object.keys(TRAINING_DEFAULTS) as (keyof TrainingOptions)[])
    TRAINING.fields[key].check(TRAINING.name, optionOf(key), options[key]);
}
