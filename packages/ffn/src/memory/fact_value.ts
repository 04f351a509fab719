import {
  AdamW,
  add,
  e,
  elementwise,
  expectDType,
  expectFunction,
  integer,
  mul,
  number,
  schema,
  sum,
  square,
  valueAndGrad,
  type Config,
  type Tensor,
} from "@x/kernels";

const OPTIONS = schema("factValue", {
  steps: integer("Most steps of Adam.", { min: 1, default: 30 }),
  learningRate: number("Step size of Adam.", { min: 0, default: 0.5 }),
  weightDecay: number("Factor of |delta| / |start| in the loss.", { min: 0, default: 0.1 }),
  clamp: number("|delta| stays within this many |start|.", { min: 0, default: 4 }),
  enough: number("The search ends once the caller's loss is below.", { default: 0.05 }),
});
export type FactValueOptions = Config<typeof OPTIONS>;

export interface FactValue {
  /** start + delta */
  readonly value: Tensor;
  readonly delta: Tensor;
  /** The caller's loss at each step. */
  readonly losses: readonly number[];
}

const length = elementwise("factDeltaLength", ["square"], (x) => e.sqrt(e.max(x, 1e-20)));

/**
 * What a feed-forward block must put out at the last token of a subject for the model to say the new object: gradient
 * descent on a change of the block's output. The caller runs the model with the change in place and returns the loss,
 * as a rule the mean over contexts of -log p(object), plus what keeps the subject what it is (a KL divergence).
 *
 * start [dim] f32, the output so far. Meng et al. 2022, arXiv:2202.05262, section 3.1 and appendix E.5.
 *
 * @throws ConfigError, DTypeError
 */
export async function factValue(
  start: Tensor,
  loss: (delta: Tensor) => Tensor,
  options: FactValueOptions = {},
): Promise<FactValue> {
  const who = OPTIONS.name;
  const { steps, learningRate, weightDecay, clamp, enough } = OPTIONS.read(options);
  expectDType(who, "start", start, "f32");
  expectFunction(who, "loss", loss);
  const { gpu } = start;
  const norm = (numbers: ArrayLike<number>): number => Math.hypot(...Array.from(numbers));
  const scale = Math.max(norm(await start.read()), 1e-6);
  const delta = gpu.keep(gpu.zeros(start.shape));
  const optimizer = new AdamW({ delta }, { learningRate, weightDecay: 0 });
  const losses: number[] = [];
  try {
    for (let step = 0; step < steps; step++) {
      const parts: { own?: Tensor } = {};
      const { value, grads, own } = gpu.scope(() => {
        const run = valueAndGrad(
          () => {
            const given = loss(delta).reshape([1]);
            parts.own = gpu.keep(given.alias([1]));
            return add(given, mul(length(sum(square(delta))).reshape([1]), weightDecay / scale));
          },
          { delta },
        );
        return { ...run, own: parts.own! };
      });
      const current = await own.item();
      losses.push(current);
      if (current >= enough) {
        optimizer.step(grads);
        const now = await delta.read();
        const size = norm(now);
        if (size > clamp * scale) delta.write(Array.from(now, (v) => (v * clamp * scale) / size));
      }
      for (const t of [value, own, grads.delta]) t.dispose();
      if (current < enough) break;
    }
    return { value: gpu.scope(() => gpu.keep(add(start, delta))), delta, losses };
  } catch (error) {
    delta.dispose();
    throw error;
  } finally {
    optimizer.dispose();
  }
}
