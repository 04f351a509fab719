import { expect, it } from "vitest";
import type { Tensor } from "@x/kernels";
import { useGpu } from "@x/testing";
import { norm } from "./norm.js";

const device = useGpu();

it.each(["sandwich", "periLn"])("%s: a norm without parameters is still a norm", async (placement) => {
  const { gpu } = device;
  const out = norm[`placement_${placement === "sandwich" ? placement : "peri_ln"}`]!({
    gpu,
    host: () => [],
    config: { placement, dim: 2, norm: "rms", eps: 0, sublayers: ["linearTanh"] },
    inputs: { x: gpu.tensor([3, 3], [1, 1, 2]) },
    params: { "sub.0.w": gpu.tensor([1, 0, 0, 1], [2, 2]) },
  });
  // x + M(tanh(N(x))) with N(x) = (1, 1): tanh(1) in both features, which M brings back to 1.
  const [a, b] = await (out["out"] as Tensor).read();
  expect(a).toBeCloseTo(4, 5);
  expect(b).toBeCloseTo(4, 5);
});
