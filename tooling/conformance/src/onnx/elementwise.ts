import { cast, clip, gelu, geluTanh, mul, where } from "@x/kernels";
import { activation } from "@x/ffn";
import type { OnnxMappings } from "./node.js";

/** Operators that look at one element at a time. */
export const elementwiseOperators: OnnxMappings = {
  Clip: (node) => {
    const [low, high] = [node.host(1)?.[0], node.host(2)?.[0]];
    return [clip(node.need(0), low, high)];
  },
  Gelu: (node) => [node.text("approximate", "none") === "tanh" ? geluTanh(node.need(0)) : gelu(node.need(0))],
  Mish: (node) => [activation(node.need(0), "mish")],
  Swish: (node) => [activation(node.need(0), "swish", { beta: node.number("alpha", 1) })],
  SwiGLU: (node) => [mul(activation(node.need(0), "swish", { beta: node.number("alpha", 1) }), node.need(1))],
  Where: (node) => {
    const out = where(node.need(0), node.need(1), node.need(2));
    return [cast(out, node.need(1).dtype)];
  },
};
