import type { PositionContext } from "@x/attention";
import { ConfigError, type Tensor } from "@x/kernels";
import type { ForwardContext, MixerState } from "../contract.js";

/** The state that a mixer made, given back to it. @throws ConfigError for another mixer's */
export function stateOf<S extends MixerState>(
  made: { readonly prototype: S; readonly name: string },
  state: MixerState | undefined,
): S | undefined {
  if (state === undefined || isMade(made, state)) return state;
  throw new ConfigError("mixer", `the state is not a ${made.name}; it must be the one that createState gave`);
}

const isMade = <S extends MixerState>(made: { readonly prototype: S }, state: MixerState): state is S =>
  Object.prototype.isPrototypeOf.call(made.prototype, state);

/** Positions of a pass's tokens, for an encoding. */
export const positionContext = ({ positionIds, textLength, seqLen }: ForwardContext): PositionContext => ({
  positionIds,
  seqLen: textLength,
  maxPositions: seqLen,
});

/** What an attention of the package needs to know in order to decode: nothing without a state. */
export function decoding<S extends MixerState>(
  made: { readonly prototype: S; readonly name: string },
  state: MixerState | undefined,
  { positionIds: positions, textLength }: ForwardContext,
): { state?: S; positions?: Tensor | undefined; textLength?: number } {
  const held = stateOf(made, state);
  return held ? { state: held, positions, textLength } : {};
}
