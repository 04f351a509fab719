import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import {
  AdamW,
  checkConfig,
  clipGradNorm,
  ConfigError,
  cosineSchedule,
  expectInteger,
  expectNumber,
  FormatError,
  stopGradient,
  valueAndGrad,
  type Gpu,
  type Recording,
  type Tensor,
} from "@x/kernels";
import { Safetensors, writeSafetensors, type TensorData } from "@x/kernels/safetensors";
import { BpeTokenizer, toTokenizerJson, type Tokenizer } from "@x/tokenizer";
import {
  loadCheckpoint,
  loadFolderTokenizer,
  readConfig,
  saveCheckpoint,
  writeAtomically,
  type CheckpointDType,
} from "./checkpoint.js";
import { modelConfig } from "./config/index.js";
import { documentStarts, encodeDocuments, evaluationBatches, readDocuments, trainingBatch } from "./data.js";
import { lossCurve } from "./loss_curve.js";
import { CausalLM } from "./model.js";
import { HostRandom } from "./random.js";

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

/** A run: a model's config.json, the data, and how to train. */
export interface TrainingRun {
  readonly data: string;
  readonly out: string;
  /** Contents of config.json; vocab_size follows the tokenizer. Not read with `init`. */
  readonly model: Record<string, unknown>;
  /** A model's folder to start from: its weights, tokenizer and configuration (fine-tuning). */
  readonly init?: string | undefined;
  /** Vocabulary to learn where the out folder has no tokenizer yet. */
  readonly vocabSize: number;
  readonly options: TrainingOptions;
  /** What the finished model's weights are rounded to; default f32. What training goes on from is always f32. */
  readonly dtype?: CheckpointDType;
}

export interface Progress {
  readonly step: number;
  readonly steps: number;
  readonly loss: number;
  readonly tokensPerSecond: number;
  readonly secondsLeft: number;
  readonly validationLoss: number | undefined;
  readonly learningRate: number;
}

const END_OF_TEXT = "<|endoftext|>";

/** What a run needs besides weights to go on as if it had not stopped. */
interface SavedState {
  readonly step: number;
  readonly options: TrainingOptions;
  readonly losses: [number, number][];
  readonly validation: [number, number][];
}

function checkOptions(options: TrainingOptions): void {
  const who = "train";
  checkConfig(who, options, Object.keys(TRAINING_DEFAULTS));
  for (const key of ["steps", "batch", "seqLen", "evaluateEvery", "saveEvery"] as const)
    expectInteger(who, key, options[key], 1);
  expectInteger(who, "warmup", options.warmup, 0);
  expectInteger(who, "seed", options.seed, 0);
  for (const key of ["learningRate", "weightDecay", "clip"] as const) expectNumber(who, key, options[key], 0);
  expectNumber(who, "finalRate", options.finalRate, 0, 1);
  expectNumber(who, "validation", options.validation, 0, 0.5);
  expectNumber(who, "documentStarts", options.documentStarts, 0, 1);
}

async function tokenizerOf(
  run: TrainingRun,
  documents: readonly string[],
): Promise<{ tokenizer: Tokenizer; files: Record<string, string> }> {
  const names = ["tokenizer.json", "tokenizer_config.json"];
  const folder = (await loadFolderTokenizer(run.out)) ? run.out : run.init;
  const found = folder === undefined ? undefined : await loadFolderTokenizer(folder);
  if (folder !== undefined && !found)
    throw new ConfigError("train", `${folder} has no tokenizer to go on with`);
  if (folder !== undefined && found) {
    const files = await Promise.all(
      names.map(
        async (name) => [name, await readFile(join(folder, name), "utf8").catch(() => undefined)] as const,
      ),
    );
    return {
      tokenizer: found,
      files: Object.fromEntries(files.filter((f): f is [string, string] => f[1] !== undefined)),
    };
  }
  const tokenizer = BpeTokenizer.train(documents, {
    vocabSize: run.vocabSize,
    specialTokens: [END_OF_TEXT],
    bosToken: END_OF_TEXT,
    eosToken: END_OF_TEXT,
  });
  const files = {
    "tokenizer.json": `${JSON.stringify(toTokenizerJson(tokenizer))}\n`,
    "tokenizer_config.json": `${JSON.stringify({ tokenizer_class: "PreTrainedTokenizerFast", bos_token: END_OF_TEXT, eos_token: END_OF_TEXT }, null, 2)}\n`,
  };
  await mkdir(run.out, { recursive: true });
  for (const [name, text] of Object.entries(files)) await writeAtomically(join(run.out, name), text);
  return { tokenizer, files };
}

/** Documents for training and for validation; a function of the seed. */
function splitDocuments(
  documents: readonly string[],
  share: number,
  seed: number,
): { training: string[]; validation: string[] } {
  const random = new HostRandom(0x5911, seed);
  const training: string[] = [];
  const validation: string[] = [];
  for (const text of documents) (random.next() < share ? validation : training).push(text);
  return training.length === 0 || (validation.length === 0 && share > 0)
    ? { training: [...documents], validation: [...documents].slice(-1) }
    : { training, validation };
}

/**
 * Train, or go on with what `out` holds. Everything that a step does is a function of the seed and its number, and a
 * checkpoint is written whole or not at all, so a run that was killed ends with the same bits as one that was not.
 */
export async function train(
  gpu: Gpu,
  run: TrainingRun,
  callbacks: { readonly onProgress?: (progress: Progress) => void; readonly stopped?: () => boolean } = {},
): Promise<{ step: number; loss: number; validationLoss: number | undefined }> {
  const { options, out } = run;
  checkOptions(options);
  const documents = await readDocuments(run.data);
  const { tokenizer, files } = await tokenizerOf(run, documents);
  const { training, validation } = splitDocuments(documents, options.validation, options.seed);
  const stream = encodeDocuments(training, tokenizer);
  const held = encodeDocuments(validation, tokenizer);
  if (stream.length <= options.seqLen)
    throw new ConfigError(run.data, `holds ${stream.length} training tokens; seqLen is ${options.seqLen}`);
  const eos = tokenizer.eosTokenId;
  const starts = {
    at: documentStarts(stream, eos, options.seqLen),
    share: options.documentStarts,
  };
  const json = {
    ...(run.init === undefined ? run.model : (await readConfig(run.init)).json),
    vocab_size: tokenizer.vocabSize,
    ...(eos === undefined ? {} : { bos_token_id: eos, eos_token_id: eos }),
  };
  const config = modelConfig(json);

  const latest = join(out, "training", "latest.json");
  const saved = await readFile(latest, "utf8").then(
    (text) => JSON.parse(text) as { folder: string },
    () => undefined,
  );
  let state: SavedState = { step: 0, options, losses: [], validation: [] };
  let model: CausalLM;
  let optimizerState: Record<string, Float32Array> | undefined;
  if (saved) {
    const folder = join(out, "training", saved.folder);
    state = JSON.parse(await readFile(join(folder, "state.json"), "utf8")) as SavedState;
    const { steps: oldSteps, ...before } = state.options;
    const { steps: newSteps, ...now } = options;
    if (JSON.stringify(before) !== JSON.stringify(now) || oldSteps !== newSteps) {
      throw new ConfigError(
        "train",
        `${out} holds a run with other options (${JSON.stringify(state.options)}); use the same, or another folder`,
      );
    }
    ({ model } = await loadCheckpoint(gpu, folder));
    const path = join(folder, "optimizer.safetensors");
    const file = await Safetensors.parse(path, await readFile(path));
    optimizerState = {};
    for (const name of file.names) {
      const numbers = await file.numbers(name);
      if (!(numbers instanceof Float32Array)) throw new FormatError(path, `tensor ${name} is not F32`);
      optimizerState[name] = numbers;
    }
  } else if (run.init !== undefined) ({ model } = await loadCheckpoint(gpu, run.init));
  else model = CausalLM.init(gpu, config, { seed: options.seed });

  const parameters = model.parameters();
  const optimizer = new AdamW(parameters, {
    learningRate: options.learningRate,
    betas: [0.9, 0.95],
    weightDecay: options.weightDecay,
  });
  if (optimizerState) optimizer.restore(optimizerState, state.step);
  const schedule = cosineSchedule({
    peak: options.learningRate,
    warmup: Math.min(options.warmup, options.steps),
    steps: options.steps,
    floor: options.learningRate * options.finalRate,
  });
  const shape = [options.batch, options.seqLen];
  const ids = gpu.keep(gpu.zeros(shape, "i32"));
  const targets = gpu.keep(gpu.zeros(shape, "i32"));
  const losses = [...state.losses];
  const validationLosses = [...state.validation];

  const stepOnce = (): Tensor => {
    let crossEntropy: Tensor | undefined;
    const { grads } = valueAndGrad(() => {
      const loss = model.loss(ids, targets, { training: true });
      crossEntropy = gpu.keep(stopGradient(loss.crossEntropy));
      return loss.total;
    }, parameters);
    optimizer.update(grads, clipGradNorm(grads, options.clip).scale);
    model.afterStep();
    return crossEntropy!;
  };
  const evaluate = async (): Promise<number | undefined> => {
    let [sum, count] = [0, 0];
    for (const batch of evaluationBatches(held, options.batch, options.seqLen)) {
      ids.write(batch.ids);
      targets.write(batch.targets);
      const loss = gpu.scope(() => model.loss(ids, targets).crossEntropy);
      sum += (await loss.item()) * batch.count;
      loss.dispose();
      count += batch.count;
    }
    return count === 0 ? undefined : sum / count;
  };
  const save = async (step: number): Promise<void> => {
    const name = `step-${String(step).padStart(7, "0")}`;
    const folder = join(out, "training", name);
    await saveCheckpoint(folder, model, json);
    const moments: Record<string, TensorData> = {};
    for (const [key, tensor] of Object.entries(optimizer.state()))
      moments[key] = { shape: tensor.shape, data: (await tensor.read()) as Float32Array };
    await writeAtomically(join(folder, "optimizer.safetensors"), writeSafetensors(moments));
    await writeAtomically(
      join(folder, "state.json"),
      JSON.stringify({ step, options, losses, validation: validationLosses } satisfies SavedState),
    );
    const before = await readFile(latest, "utf8").then(
      (text) => (JSON.parse(text) as { folder: string }).folder,
      () => undefined,
    );
    await writeAtomically(latest, JSON.stringify({ folder: name }));
    if (before !== undefined && before !== name)
      await rm(join(out, "training", before), { recursive: true, force: true });
    await writeAtomically(join(out, "loss.svg"), lossCurve(losses, validationLosses));
  };

  let recording: Recording<Tensor> | undefined;
  let step = state.step;
  let lossValue = losses.at(-1)?.[1] ?? NaN;
  let validationLoss = validationLosses.at(-1)?.[1];
  const started = performance.now();
  const first = step;
  try {
    while (step < options.steps) {
      const batch = trainingBatch(stream, options.batch, options.seqLen, options.seed, step, starts);
      ids.write(batch.ids);
      targets.write(batch.targets);
      optimizer.advance(schedule(step));
      if (recording) recording.replay();
      else recording = gpu.record(stepOnce);
      step++;
      lossValue = await recording.outputs.item();
      losses.push([step, lossValue]);
      if (!Number.isFinite(lossValue))
        throw new ConfigError("train", `the loss is ${lossValue} at step ${step}; lower learningRate`);
      const last = step === options.steps;
      const stopping = callbacks.stopped?.() ?? false;
      if (step % options.evaluateEvery === 0 || last) {
        validationLoss = await evaluate();
        if (validationLoss !== undefined) validationLosses.push([step, validationLoss]);
      }
      const seconds = (performance.now() - started) / 1000;
      callbacks.onProgress?.({
        step,
        steps: options.steps,
        loss: lossValue,
        tokensPerSecond: ((step - first) * options.batch * options.seqLen) / seconds,
        secondsLeft: (seconds / (step - first)) * (options.steps - step),
        validationLoss,
        learningRate: schedule(step - 1),
      });
      if (step % options.saveEvery === 0 || last || stopping) await save(step);
      if (stopping) break;
    }
    await saveCheckpoint(out, model, json, { files, dtype: run.dtype ?? "f32" });
    await writeAtomically(join(out, "loss.svg"), lossCurve(losses, validationLosses));
    await writeAtomically(
      join(out, "training.json"),
      `${JSON.stringify({ options, vocabSize: tokenizer.vocabSize, parameters: model.countParameters(), step, trainingTokens: stream.length, losses: thin(losses), validation: validationLosses }, null, 1)}\n`,
    );
    return { step, loss: lossValue, validationLoss };
  } finally {
    recording?.dispose();
    optimizer.dispose();
    ids.dispose();
    targets.dispose();
    model.dispose();
  }
}

/** At most 200 points of a curve. */
function thin(points: readonly [number, number][]): [number, number][] {
  const every = Math.max(1, Math.floor(points.length / 200));
  return points.filter((_, i) => i % every === every - 1 || i === points.length - 1);
}
