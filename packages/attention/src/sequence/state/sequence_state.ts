import {
  checkConfig,
  ConfigError,
  expectDType,
  expectInteger,
  expectObject,
  expectShape,
  noGrad,
  ShapeError,
  showShape,
  stridedCopy,
  stridesOf,
  tensor,
  type Gpu,
  type Parameters,
  type State,
  type StateOptions as AnyStateOptions,
  type Tensor,
} from "@x/kernels";

/** Shapes of a state's tensors by name, and the number each starts from (0). */
export type StatePlan = Readonly<
  Record<string, { readonly shape: readonly number[]; readonly initial?: number }>
>;

/** The key of `outputs` that every layer has besides its states. */
export const RESIDUAL = {
  residual: tensor("Added to the output, in the shape of x; f32.", { optional: true }),
};

export interface SequenceOptions {
  /** Carried from call to call, and written in place; see `createState`. */
  readonly state?: SequenceState | undefined;
  /** Added to the output. */
  readonly residual?: Tensor | undefined;
}

/** States that a call may be given; what is absent starts as at the beginning of a text. */
export type Before<States> = { readonly [K in keyof States]?: States[K] | undefined };

/**
 * What a sequence mixer carries from token to token: named tensors of fixed size, written in place, so that a decoding
 * step can be recorded and nothing grows with the text.
 */
export class SequenceState implements State {
  readonly #gpu: Gpu;
  readonly #plan: StatePlan;
  readonly #tensors: Readonly<Record<string, Tensor>>;

  /** @throws ConfigError where the plan is missing */
  constructor(gpu: Gpu, plan: StatePlan) {
    expectObject("SequenceState", "the plan", plan);
    this.#gpu = gpu;
    this.#plan = plan;
    this.#tensors = Object.fromEntries(
      Object.entries(plan).map(([name, { shape, initial = 0 }]) => [
        name,
        gpu.keep(gpu.full(shape, initial)),
      ]),
    );
  }

  /** The tensors by name, as the last token left them; they stay the same objects. */
  get tensors(): Readonly<Record<string, Tensor>> {
    return this.#tensors;
  }

  /** Bytes held; they do not depend on the text's length. */
  get bytes(): number {
    return Object.values(this.#tensors).reduce((sum, t) => sum + t.byteLength, 0);
  }

  /** 0: a state has one size however long the text. */
  get bytesPerToken(): number {
    return 0;
  }

  /** Put new values in place. @throws ConfigError, ShapeError naming the tensor that is missing or does not fit. */
  update(next: Readonly<Record<string, Tensor | undefined>>): void {
    for (const [name, to] of Object.entries(this.#tensors)) {
      const from = next[name];
      if (!from) throw new ConfigError("SequenceState.update", `${name} is missing`);
      expectShape("SequenceState.update", name, from, to.shape);
    }
    noGrad(() => {
      for (const [name, to] of Object.entries(this.#tensors)) this.#write(to, next[name]!);
    });
  }

  /** Back to the beginning of a text. */
  clear(): void {
    this.#gpu.scope(() => {
      for (const [name, to] of Object.entries(this.#tensors))
        this.#write(to, this.#gpu.full(to.shape, this.#plan[name]?.initial ?? 0));
    });
  }

  #write(to: Tensor, from: Tensor): void {
    const strides = stridesOf(to.shape);
    stridedCopy("SequenceState", to.shape, { tensor: from, strides }, { tensor: to, strides });
  }

  dispose(): void {
    for (const tensor of Object.values(this.#tensors)) tensor.dispose();
  }
}

/** What a layer's `createState` takes: how many sequences. */
export type StateOptions = Pick<AnyStateOptions, "batch">;

/** A layer's new state, on the device of its parameters. @throws ConfigError */
export function newState(
  who: string,
  parameters: Parameters,
  options: StateOptions,
  plan: (batch: number) => StatePlan,
): SequenceState {
  checkConfig(`${who}.createState`, options, ["batch"]);
  expectInteger(who, "batch", options.batch, 1);
  return new SequenceState(Object.values(parameters)[0]!.gpu, plan(options.batch));
}

/** Check x [batch, tokens, dim] of a layer and what is added to its output, and give the sizes. @throws ShapeError, DTypeError, ConfigError */
export function expectInput(
  who: string,
  x: Tensor,
  dim: number,
  residual?: Tensor,
): { readonly batch: number; readonly tokens: number } {
  const { batch = 0, tokens = 0 } = expectShape(who, "x", x, ["batch", "tokens", dim]);
  expectDType(who, "x", x, "f32");
  if (batch === 0 || tokens === 0)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}: it has no tokens`);
  if (residual !== undefined) {
    expectShape(who, "residual", residual, x.shape);
    expectDType(who, "residual", residual, "f32");
  }
  return { batch, tokens };
}

/**
 * Check a layer's call before its work starts: x, the options (`state`, `residual` and `more`), and that the state is one of
 * this layer for this batch.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function expectCall(
  who: string,
  x: Tensor,
  dim: number,
  options: SequenceOptions,
  plan: (batch: number) => StatePlan,
  more: readonly string[] = [],
): void {
  checkConfig(who, options, ["state", "residual", ...more]);
  const { state, residual } = options;
  const { batch } = expectInput(who, x, dim, residual);
  if (state === undefined) return;
  if (!(state instanceof SequenceState))
    throw new ConfigError(who, "state is not a SequenceState; it must be one that createState made");
  for (const [name, { shape }] of Object.entries(plan(batch))) {
    const own = state.tensors[name];
    if (!own)
      throw new ConfigError(
        who,
        `state has ${Object.keys(state.tensors).join(", ")}, not ${name}; it must be one that this layer's createState made`,
      );
    expectShape(who, `state ${name}`, own, shape);
  }
}

/** A call of a layer: its outputs from what the state holds, which then holds the states that come out. */
export function carried(
  x: Tensor,
  { state, ...rest }: SequenceOptions,
  outputs: (given: Readonly<Record<string, Tensor | undefined>>) => { readonly out: Tensor },
): Tensor {
  return x.gpu.scope(() => {
    const { out, ...states } = outputs({ ...state?.tensors, ...rest });
    state?.update(states);
    return out;
  });
}
