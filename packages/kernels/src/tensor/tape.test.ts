import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  add,
  applyOp,
  checkpoint,
  ConfigError,
  mul,
  noGrad,
  openDevice,
  ShapeError,
  silu,
  stopGradient,
  tanh,
  valueAndGrad,
  vjp,
  type Gpu,
  type Tensor,
} from "../index.js";
import { sumMiddle } from "./reduce.js";

let gpu: Gpu;
beforeAll(async () => {
  gpu = await openDevice({ fillWithNaN: true });
});
afterAll(() => {
  gpu.destroy();
});

function total(x: Tensor): Tensor {
  return applyOp({
    name: "total",
    inputs: [x],
    forward: () => ({ outputs: [sumMiddle(x, 1, x.size, 1).alias([])] }),
    backward: ({ grads }) => [mul(gpu.full(x.shape, 1), (grads[0] as Tensor).alias([]))],
  })[0] as Tensor;
}

const list = async (t: Tensor | undefined): Promise<number[]> => [...((await t?.read()) ?? [])];

describe("tape", () => {
  it("adds up the gradients of a tensor that is used several times", async () => {
    const x = gpu.tensor([1, 2, 3], [3]);
    const { value, grads } = valueAndGrad(() => total(add(mul(x, x), add(x, x))), { x });
    expect(await value.item()).toBe(26);
    expect(await list(grads.x)).toEqual([4, 6, 8]);
  });

  it("gives zeros for parameters that the loss does not use", async () => {
    const [x, unused] = [gpu.tensor([2], [1]), gpu.tensor([1, 2], [2])];
    const { grads } = valueAndGrad(() => total(x), { x, unused });
    expect(await list(grads.unused)).toEqual([0, 0]);
    expect(await list(grads.x)).toEqual([1]);
  });

  it("follows reshape, and stops where it is told to", async () => {
    const x = gpu.tensor([1, 2, 3, 4], [4]);
    const { grads } = valueAndGrad(() => total(mul(x.reshape([2, 2]), stopGradient(x).reshape([2, -1]))), {
      x,
    });
    expect(await list(grads.x)).toEqual([1, 2, 3, 4]);
    const constant = valueAndGrad(
      () =>
        total(
          add(
            noGrad(() => mul(x, x)),
            x,
          ),
        ),
      { x },
    );
    expect(await list(constant.grads.x)).toEqual([1, 1, 1, 1]);
  });

  it("pulls several cotangents back, also onto an output that is an input", async () => {
    const x = gpu.tensor([1, 2], [2]);
    const run = vjp(() => [mul(x, 3), x, tanh(x)], [x]);
    const [g] = run.pullback([gpu.tensor([1, 1], [2]), gpu.tensor([10, 20], [2]), undefined]);
    expect(await list(g)).toEqual([13, 23]);
  });

  it("recomputes a checkpointed part to the same bits", async () => {
    const x = gpu.tensor([0.3, -0.7, 1.1], [3]);
    const w = gpu.tensor([0.5, 0.25, -1], [3]);
    const body = (a: Tensor, b: Tensor): Tensor[] => [silu(mul(tanh(mul(a, b)), a))];
    const plain = valueAndGrad(() => total(body(x, w)[0] as Tensor), { x, w });
    const again = valueAndGrad(() => total(checkpoint((a, b) => body(a, b), [x, w])[0] as Tensor), { x, w });
    expect(await list(again.grads.x)).toEqual(await list(plain.grads.x));
    expect(await list(again.grads.w)).toEqual(await list(plain.grads.w));
  });

  it("refuses what would be silently wrong", () => {
    const x = gpu.tensor([1, 2], [2]);
    expect(() => valueAndGrad(() => mul(x, x), { x })).toThrow(ShapeError);
    expect(() => vjp(() => vjp(() => [x], [x]).outputs, [x])).toThrow(/inside another vjp/);
    expect(() => vjp(() => [x], [])).toThrow(ConfigError);
    expect(() => vjp(() => [x], [gpu.zeros([1], "i32")])).toThrow(/i32/);
    const wrong = (): Tensor =>
      applyOp({
        name: "wrong",
        inputs: [x],
        forward: () => ({ outputs: [mul(x, 2)] }),
        backward: () => [gpu.zeros([3])],
      })[0] as Tensor;
    expect(() => valueAndGrad(() => total(wrong()), { x })).toThrow(
      "wrong: its gradient has shape [3]; the tensor has [2]",
    );
    const flat = (): Tensor =>
      applyOp({ name: "flat", inputs: [x], forward: () => ({ outputs: [mul(x, 2)] }) })[0] as Tensor;
    expect(() => valueAndGrad(() => total(flat()), { x })).toThrow("flat: has no gradient");
    const run = vjp(() => [mul(x, x)], [x]);
    run.pullback([gpu.full([2], 1)]);
    expect(() => run.pullback([gpu.full([2], 1)])).toThrow(/twice/);
  });

  it("holds memory flat over steps, also when a step throws or its pullback is not called", async () => {
    const x = gpu.keep(gpu.tensor([1, 2, 3, 4], [4]));
    const step = (i: number): void => {
      gpu.scope(() => {
        if (i % 5 === 1) {
          vjp(() => [mul(x, x)], [x]);
        } else if (i % 5 === 2) {
          const failing = (): Tensor => {
            mul(x, x);
            throw new Error("stop");
          };
          expect(() => valueAndGrad(failing, { x })).toThrow("stop");
        } else {
          valueAndGrad(() => total(silu(mul(add(x, i), tanh(x)))), { x });
        }
      });
    };
    for (let i = 0; i < 10; i++) step(i);
    await gpu.sync();
    const before = gpu.memory();
    for (let i = 0; i < 1000; i++) step(i);
    await gpu.sync();
    const after = gpu.memory();
    expect(after.liveBytes).toBe(before.liveBytes);
    expect(after.liveBuffers).toBe(before.liveBuffers);
    expect(after.pooledBytes).toBe(before.pooledBytes);
    x.dispose();
  });
});
