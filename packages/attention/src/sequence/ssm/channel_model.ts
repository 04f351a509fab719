import { add, applyOp, defineKernel, grid1d, vjp, type Kernel, type Tensor } from "@x/kernels";
import { recurrent, type RecurrentVariant } from "./channel_model.wgsl.js";
import { longConvolution } from "../convolution/long_convolution.js";
import { finalState, powerSums } from "./power_sums.js";

/** The diagonal state space models of all channels as the forms take them. */
export interface ChannelModel {
  /** [dim, states, 4] of `poles`. */
  readonly pole: Tensor;
  readonly c: Tensor;
}

const recurrentKernel: Kernel<RecurrentVariant> = defineKernel({
  name: "s4dRecurrent",
  bindings: (v: RecurrentVariant) => ({
    u: "read f32" as const,
    pole: "read vec4u" as const,
    c: "read vec2f" as const,
    ...(v.state ? { state: "read vec2f" as const } : {}),
    out: "write f32" as const,
    state_out: "write vec2f" as const,
  }),
  params: { batch: "u32", seq: "u32", dim: "u32", states: "u32" },
  wgsl: recurrent,
});

/** Outputs [batch, seq, dim] without the skip, by the convolution. */
export function convolved(
  u: Tensor,
  kernel: Tensor,
  { pole, c }: ChannelModel,
  state: Tensor | undefined,
): Tensor {
  const y = longConvolution(u, kernel);
  return state ? add(y, powerSums(c, pole, u.shape[1]!, state)) : y;
}

/** The same outputs and the last state in one pass over the tokens; its gradient is the convolution's. */
export function stepped(
  u: Tensor,
  { pole, c }: ChannelModel,
  state: Tensor | undefined,
): { y: Tensor; state: Tensor } {
  const { gpu } = u;
  const [batch, seq, dim] = u.shape as [number, number, number];
  const states = pole.shape[1]!;
  const lanes = Math.min(64, 2 ** Math.ceil(Math.log2(states)));
  const inputs = [u, pole, c, state];
  const [y, last] = applyOp({
    name: "s4dRecurrent",
    inputs,
    forward: () => {
      const [out, state_out] = [gpu.empty(u.shape), gpu.empty([batch, dim, states, 2])];
      gpu.run(recurrentKernel, {
        variant: { lanes, each: Math.ceil(states / lanes), state: state !== undefined },
        bindings: { u, pole, c, state, out, state_out },
        params: { batch, seq, dim, states },
        workgroups: grid1d(batch * Math.ceil((dim * lanes) / 64)),
      });
      return { outputs: [out, state_out] };
    },
    backward: ({ grads, needs }) => {
      const wrt = inputs.filter((t, i): t is Tensor => t !== undefined && needs[i] === true);
      const run = vjp(
        () => [
          convolved(u, powerSums(c, pole, seq), { pole, c }, state),
          ...(grads[1] ? [finalState(u, pole, state)] : []),
        ],
        wrt,
      );
      const gradients = run.pullback([grads[0], ...(grads[1] ? [grads[1]] : [])]);
      let next = 0;
      return needs.map((needed) => (needed ? gradients[next++] : undefined));
    },
  });
  return { y: y!, state: last! };
}

/** Pieces up to which a state is moved on token by token. */
export const FEW = 16;

/** Outputs without the skip and the next state of a sequence that goes on, in the form for its length. */
export function advance(u: Tensor, model: ChannelModel, state: Tensor): { y: Tensor; state: Tensor } {
  const { pole, c } = model;
  if (u.shape[1]! <= FEW) return stepped(u, model, state);
  const kernel = powerSums(c, pole, u.shape[1]!);
  return { y: convolved(u, kernel, model, state), state: finalState(u, pole, state) };
}
