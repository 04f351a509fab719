import { flatMain } from "@x/kernels";
import { sigmoidWgsl } from "../state/functions.wgsl.js";

/*
 * The gate of S4D's output block. An invocation owns one element of the output; grid: ceil(count / 64) workgroups of 64
 * invocations, count = rows dim. Bindings: z and dz [rows, 2 dim], residual, out and grad [rows, dim].
 */

const rowsOfHalves = /* wgsl */ `
${sigmoidWgsl}
${flatMain("i", "params.count")}
  let at = i / params.dim * 2u * params.dim + i % params.dim;
  let open = sigmoid(z[at + params.dim]);`;

/** out[r, h] = z[r, h] sigmoid(z[r, dim + h]) (+ residual[r, h]). */
export const gateHalves = (v: { readonly residual: boolean }): string => /* wgsl */ `
${rowsOfHalves}
  out[i] = z[at] * open${v.residual ? " + residual[i]" : ""};
}`;

export const gateHalvesBackward = (): string => /* wgsl */ `
${rowsOfHalves}
  dz[at] = grad[i] * open;
  dz[at + params.dim] = grad[i] * z[at] * open * sigmoid(-z[at + params.dim]);
}`;
