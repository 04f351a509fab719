import { join } from "node:path";
import { ConfigError, type Gpu } from "@x/kernels";
import { expectWritable, makeFolder, writeAtomically } from "../checkpoint/files.js";
import { loadCheckpoint, loadFolderTokenizer } from "../checkpoint/load.js";
import { saveCheckpoint, type CheckpointDType } from "../checkpoint/save.js";
import type { Components } from "../components/index.js";
import { modelConfig } from "../families/index.js";
import { readDocuments } from "../corpus/documents.js";
import { checkLength } from "../model/context.js";
import { CausalLM } from "../model/model.js";
import { lossCurve } from "./loss_curve.js";
import { checkOptions, optionOf, type TrainingOptions } from "./options.js";
import { Pace } from "./pace.js";
import { RunFolder, type RunState } from "./run_folder.js";
import { TrainingStep, type OptimizerState } from "./step.js";
import {
  folderTokenizer,
  learnTokenizer,
  modelOf,
  newModel,
  TrainingText,
  type TokenizerFiles,
} from "./text.js";

/** A run: a model's config.json, the data, and how to train. */
export interface TrainingRun {
  readonly data: string;
  readonly out: string;
  /** Contents of config.json; vocab_size and the special ids follow the tokenizer. Not read with `init`. */
  readonly model: Record<string, unknown>;
  /** A model's folder to start from: its weights, tokenizer and configuration (fine-tuning). */
  readonly init?: string | undefined;
  /** Vocabulary to learn where the out folder has no tokenizer yet. Not read with `init`. */
  readonly vocabSize: number;
  readonly options: TrainingOptions;
  /** What the finished model's weights are rounded to; default f32. What training goes on from is always f32. */
  readonly dtype?: CheckpointDType;
  /** The parts that the configuration can name; default: those of this repository. */
  readonly components?: Components | undefined;
}

/** What is known before the first step. */
export interface Start {
  /** Steps that an earlier process did. */
  readonly step: number;
  readonly steps: number;
  readonly parameters: number;
  readonly trainingTokens: number;
  /** False: documents run into each other. */
  readonly endOfText: boolean;
  /** What to expect of sequences that are longer than the model is made for. */
  readonly warning: string | undefined;
}

export interface Progress {
  readonly step: number;
  readonly steps: number;
  readonly loss: number;
  /** Undefined before the second step of a process: the first one compiles. */
  readonly tokensPerSecond: number | undefined;
  readonly secondsLeft: number | undefined;
  readonly validationLoss: number | undefined;
  readonly learningRate: number;
}

export interface Callbacks {
  readonly onStart?: (start: Start) => void;
  readonly onProgress?: (progress: Progress) => void;
  /** Asked after each step: true saves and ends. */
  readonly stopped?: () => boolean;
}

export interface TrainingResult {
  readonly step: number;
  readonly loss: number;
  readonly validationLoss: number | undefined;
}

/** A run that is ready for its next step. */
interface Prepared {
  readonly folder: RunFolder;
  readonly json: Record<string, unknown>;
  readonly files: TokenizerFiles["files"];
  readonly text: TrainingText;
  readonly state: RunState;
  readonly optimizer: OptimizerState | undefined;
  readonly vocabSize: number;
}

async function prepare(run: TrainingRun): Promise<Prepared> {
  const { options, out, init } = run;
  checkOptions(options);
  await expectWritable("--out", out, "folder");
  const documents = await readDocuments(run.data);
  const folder = await RunFolder.open(out);
  const saved = await folder.read();
  const source = folder.latest ?? init ?? ((await loadFolderTokenizer(out)) ? out : undefined);
  const { tokenizer, files } =
    source === undefined ? learnTokenizer(documents, run.vocabSize) : await folderTokenizer(source);
  const asked = init === undefined ? newModel(run.model, tokenizer) : await modelOf(init);
  const json = folder.latest === undefined ? asked : await modelOf(folder.latest);
  const text = new TrainingText(run.data, documents, tokenizer, json, options);
  if (saved) {
    folder.expectSame(saved.state, options, text.hash);
    folder.expectModel(json, asked);
  }
  return {
    folder,
    json,
    files,
    text,
    state: { step: 0, losses: [], validation: [], ...saved?.state, options, text: text.hash },
    optimizer: saved?.optimizer,
    vocabSize: tokenizer.vocabSize,
  };
}

async function openModel(gpu: Gpu, run: TrainingRun, { folder, json }: Prepared): Promise<CausalLM> {
  const { components } = run;
  const from = folder.latest ?? run.init;
  if (from !== undefined) return (await loadCheckpoint(gpu, from, { components })).model;
  return CausalLM.init(gpu, modelConfig(json), {
    seed: run.options.seed,
    ...(components ? { components } : {}),
  });
}

/** @throws ConfigError: nothing that follows would be of use */
function expectFinite(what: string, loss: number, step: number, saved: number): void {
  if (Number.isFinite(loss)) return;
  throw new ConfigError(
    "train",
    `the ${what} is ${loss} at step ${step}; lower ${optionOf("learningRate")}` +
      (saved > 0 ? ` (what was saved at step ${saved} stays)` : ""),
  );
}

/**
 * Train, or go on with what `out` holds. Everything that a step does is a function of the seed and its number, and a
 * checkpoint is written whole or not at all, so a run that was killed ends with the same bits as one that was not.
 *
 * @throws ConfigError, FormatError
 */
export async function train(gpu: Gpu, run: TrainingRun, callbacks: Callbacks = {}): Promise<TrainingResult> {
  const prepared = await prepare(run);
  const model = await openModel(gpu, run, prepared);
  try {
    const warning = checkLength("train: --seq-len", model, run.options.seqLen);
    const step = new TrainingStep(gpu, model, run.options, prepared.optimizer);
    try {
      return await steps(run, prepared, model, step, warning, callbacks);
    } finally {
      step.dispose();
    }
  } finally {
    model.dispose();
  }
}

async function steps(
  run: TrainingRun,
  prepared: Prepared,
  model: CausalLM,
  training: TrainingStep,
  warning: string | undefined,
  { onStart, onProgress, stopped }: Callbacks,
): Promise<TrainingResult> {
  const { options, out } = run;
  const { folder, json, files, text, state } = prepared;
  const losses = [...state.losses];
  const validation = [...state.validation];
  let { step } = state;
  let saved = step;
  onStart?.({
    step,
    steps: options.steps,
    parameters: model.countParameters().total,
    trainingTokens: text.training.length,
    endOfText: text.end !== undefined,
    warning,
  });
  await makeFolder(out);
  const pace = new Pace();
  while (step < options.steps) {
    const loss = await pace.measure(() => training.run(text.batch(step), step));
    step++;
    losses.push([step, loss]);
    expectFinite("loss", loss, step, saved);
    const last = step === options.steps;
    const stopping = stopped?.() ?? false;
    if (step % options.evaluateEvery === 0 || last) {
      const judged = await training.evaluate(text.validation);
      if (judged !== undefined) {
        expectFinite("validation loss", judged, step, saved);
        validation.push([step, judged]);
      }
    }
    onProgress?.({
      step,
      steps: options.steps,
      loss,
      tokensPerSecond: pace.rate && pace.rate * options.batch * options.seqLen,
      secondsLeft: pace.rate && (options.steps - step) / pace.rate,
      validationLoss: validation.at(-1)?.[1],
      learningRate: training.schedule(step - 1),
    });
    if (step % options.saveEvery === 0 || last || stopping) {
      const { optimizer } = training;
      await folder.save(model, json, files, optimizer, { ...state, step, losses, validation });
      saved = step;
      await writeAtomically(join(out, "loss.svg"), lossCurve(losses, validation));
    }
    if (stopping) break;
  }
  const done = {
    options,
    vocabSize: prepared.vocabSize,
    parameters: model.countParameters(),
    step,
    trainingTokens: text.training.length,
    losses: thin(losses),
    validation,
  };
  await saveCheckpoint(out, model, json, {
    dtype: run.dtype ?? "f32",
    files: {
      ...files,
      "loss.svg": lossCurve(losses, validation),
      "training.json": `${JSON.stringify(done, null, 1)}\n`,
    },
  });
  return { step, loss: losses.at(-1)?.[1] ?? NaN, validationLoss: validation.at(-1)?.[1] };
}

/** At most 200 points of a curve. */
function thin(points: readonly (readonly [number, number])[]): (readonly [number, number])[] {
  const every = Math.max(1, Math.floor(points.length / 200));
  return points.filter((_, i) => i % every === every - 1 || i === points.length - 1);
}
