// Sequence mixers without softmax: each maps a sequence to a sequence by a state of fixed size.
export { SequenceState, type StatePlan } from "./sequence_state.js";
