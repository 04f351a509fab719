import {
  Component,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Schema,
  type Stateful,
  type Tensor,
} from "@x/kernels";
import {
  carried,
  expectCall,
  newState,
  type SequenceOptions,
  type SequenceState,
  type StateOptions,
  type StatePlan,
} from "./sequence_state.js";

/** What a call is given by name: the states before it, if there are any, and the tensors of its options. */
export type Given = Readonly<Record<string, Tensor | undefined>>;

/**
 * Base of the layers that carry a state of fixed size from token to token. A subclass says what the state is made of and
 * computes a call from the states before it; the states that come out bear the names of the plan.
 */
export abstract class SequenceMixer<S extends Schema>
  extends Component<S>
  implements Stateful<SequenceState>
{
  readonly #who: string;
  readonly #dim: number;

  constructor(
    schema: S,
    config: Config<S> & { readonly dim: number },
    plan: ParameterPlan,
    parameters: Parameters,
  ) {
    super(schema, config, plan, parameters);
    this.#who = schema.name;
    this.#dim = config.dim;
  }

  protected abstract statePlan(batch: number): StatePlan;
  protected abstract run(x: Tensor, given: Given): { readonly out: Tensor };

  /** An empty state, whose size does not depend on the text's length. @throws ConfigError */
  createState(options: StateOptions): SequenceState {
    return newState(this.#who, this.weights, options, (batch) => this.statePlan(batch));
  }

  /**
   * x [batch, seq, dim], f32: a whole sequence, or what follows the state, which moves on.
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  forward(x: Tensor, options: SequenceOptions = {}): Tensor {
    return this.carry(x, options);
  }

  /** `forward` with the options that a layer knows besides. */
  protected carry(x: Tensor, options: SequenceOptions, more: readonly string[] = []): Tensor {
    expectCall(this.#who, x, this.#dim, options, (batch) => this.statePlan(batch), more);
    return carried(x, options, (given) => this.run(x, given));
  }
}
