import {
  AdamW,
  clipGradNorm,
  cosineSchedule,
  stopGradient,
  valueAndGrad,
  type Gpu,
  type Recording,
  type Schedule,
  type Tensor,
} from "@x/kernels";
import { evaluationBatches, type Batch } from "../corpus/data.js";
import type { CausalLM } from "../model/model.js";
import type { TrainingOptions } from "./options.js";

/** What an optimizer had when it was saved, by name. */
export interface OptimizerState {
  readonly step: number;
  readonly moments: Readonly<Record<string, Float32Array>>;
}

/** A model, its optimizer and the schedule of the learning rate: one step at a time. */
export class TrainingStep {
  readonly optimizer: AdamW;
  readonly schedule: Schedule;
  readonly #gpu: Gpu;
  readonly #model: CausalLM;
  readonly #options: TrainingOptions;
  readonly #ids: Tensor;
  readonly #targets: Tensor;
  #recording: Recording<Tensor> | undefined;

  constructor(gpu: Gpu, model: CausalLM, options: TrainingOptions, saved?: OptimizerState) {
    this.#gpu = gpu;
    this.#model = model;
    this.#options = options;
    this.optimizer = new AdamW(model.parameters(), {
      learningRate: options.learningRate,
      betas: [0.9, 0.95],
      weightDecay: options.weightDecay,
    });
    if (saved) this.optimizer.restore(saved.moments, saved.step);
    this.schedule = cosineSchedule({
      peak: options.learningRate,
      warmup: Math.min(options.warmup, options.steps),
      steps: options.steps,
      floor: options.learningRate * options.finalRate,
    });
    const shape = [options.batch, options.seqLen];
    this.#ids = gpu.keep(gpu.zeros(shape, "i32"));
    this.#targets = gpu.keep(gpu.zeros(shape, "i32"));
  }

  /** Put in place what changes from step to step: the text and the learning rate. */
  prepare(batch: Batch, step: number): void {
    this.#ids.write(batch.ids);
    this.#targets.write(batch.targets);
    this.optimizer.advance(this.schedule(step));
  }

  /** Change the weights by the gradients of what `prepare` put in place; the cross-entropy before that. */
  update(): Tensor {
    const parameters = this.#model.parameters();
    let crossEntropy: Tensor | undefined;
    const { grads } = valueAndGrad(() => {
      const loss = this.#model.loss(this.#ids, this.#targets, { training: true });
      crossEntropy = this.#gpu.keep(stopGradient(loss.crossEntropy));
      return loss.total;
    }, parameters);
    this.optimizer.update(grads, clipGradNorm(grads, this.#options.clip).scale);
    this.#model.afterStep();
    return crossEntropy!;
  }

  /** One step, recorded the first time and replayed from then on; the cross-entropy before it. */
  async run(batch: Batch, step: number): Promise<number> {
    this.prepare(batch, step);
    if (this.#recording) this.#recording.replay();
    else this.#recording = this.#gpu.record(() => this.update());
    return this.#recording.outputs.item();
  }

  /** Mean cross-entropy of a stream of ids; undefined where it is too short to have one. */
  async evaluate(stream: Int32Array): Promise<number | undefined> {
    let [sum, count] = [0, 0];
    for (const batch of evaluationBatches(stream, this.#options.batch, this.#options.seqLen)) {
      this.#ids.write(batch.ids);
      this.#targets.write(batch.targets);
      const loss = this.#gpu.scope(() => this.#model.loss(this.#ids, this.#targets).crossEntropy);
      sum += (await loss.item()) * batch.count;
      loss.dispose();
      count += batch.count;
    }
    return count === 0 ? undefined : sum / count;
  }

  dispose(): void {
    this.#recording?.dispose();
    this.optimizer.dispose();
    this.#ids.dispose();
    this.#targets.dispose();
  }
}
