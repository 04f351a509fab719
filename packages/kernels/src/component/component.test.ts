import { describe, expect, it } from "vitest";
import { useGpu } from "../test-support.js";
import { mul, type Tensor } from "../index.js";
import { Component } from "./component.js";
import { matrix, ones, type ParameterPlan, type Parameters } from "./parameters.js";
import { integer, schema, type Config } from "./schema.js";

const SCALE = schema("Scale", { dim: integer("Width.", { min: 1 }) });

class Scale extends Component<typeof SCALE> {
  static readonly schema = SCALE;
  static plan(config: Config<typeof SCALE>): ParameterPlan {
    const { dim } = SCALE.read(config);
    return { weight: ones(dim), "proj.weight": matrix(dim, 2), running_mean: { ...ones(dim), buffer: true } };
  }
  readonly factor: number;
  constructor(
    config: Config<typeof SCALE>,
    parameters: Parameters,
    parts: { readonly factor?: number } = {},
  ) {
    super(SCALE, config, Scale.plan(config), parameters);
    this.factor = parts.factor ?? 1;
  }
  forward(x: Tensor): Tensor {
    return x.gpu.scope(() => mul(mul(x, this.weights["weight"]!), this.factor));
  }
}

describe("Component", () => {
  const device = useGpu();

  it("init draws what the plan says; the same seed gives the same values, another stream other ones", async () => {
    const read = async (options: { seed?: number; stream?: number }): Promise<number[]> => {
      using scale = Scale.init(device.gpu, { dim: 4 }, options);
      expect(Object.keys(scale.parameters())).toEqual(["weight", "proj.weight"]);
      expect(Object.keys(scale.buffers())).toEqual(["running_mean"]);
      return [...(await scale.parameters()["proj.weight"]!.read())];
    };
    expect(await read({ seed: 1 })).toEqual(await read({ seed: 1 }));
    expect(await read({ seed: 1 })).not.toEqual(await read({ seed: 1, stream: 8 }));
    expect(await read({})).toEqual(await read({ seed: 0 }));
  });

  it("refuses to draw parameters without a device", () => {
    expect(() => Scale.init(undefined as never, { dim: 4 })).toThrow(
      "Scale: gpu is undefined; it must be a device",
    );
  });

  it("counts the parameters and buffers of parts under their names", () => {
    class Outer extends Component<typeof SCALE> {
      static readonly schema = SCALE;
      static readonly plan = (config: Config<typeof SCALE>): ParameterPlan => ({ w: ones(config.dim) });
      constructor(
        config: Config<typeof SCALE>,
        parameters: Parameters,
        parts: { readonly inner?: Scale } = {},
      ) {
        super(SCALE, config, Outer.plan(config), parameters, { scale: parts.inner });
      }
    }
    const before = device.gpu.memory().liveBytes;
    const inner = Scale.init(device.gpu, { dim: 2 });
    const outer = Outer.init(device.gpu, { dim: 2 }, {}, { inner });
    expect(Object.keys(outer.parameters())).toEqual(["w", "scale.weight", "scale.proj.weight"]);
    expect(Object.keys(outer.buffers())).toEqual(["scale.running_mean"]);
    outer.dispose();
    expect(inner.parameters()["weight"]!.disposed).toBe(false);
    inner.dispose();
    expect(device.gpu.memory().liveBytes).toBe(before);
  });

  it("passes parts on", async () => {
    using scale = Scale.init(device.gpu, { dim: 2 }, {}, { factor: 3 });
    expect([...(await scale.forward(device.gpu.tensor([1, 2], [2])).read())]).toEqual([3, 6]);
  });

  it("owns what init drew, and leaves what it was given", () => {
    const before = device.gpu.memory().liveBytes;
    const made = Scale.init(device.gpu, { dim: 4 });
    const given = new Scale({ dim: 4 }, { ...made.parameters(), ...made.buffers() });
    given.dispose();
    expect(made.parameters()["weight"]!.disposed).toBe(false);
    made.dispose();
    made.dispose();
    expect(device.gpu.memory().liveBytes).toBe(before);
  });

  it("frees what it drew when the constructor refuses its parts", () => {
    class Refusing extends Scale {
      constructor(config: Config<typeof SCALE>, parameters: Parameters) {
        super(config, parameters);
        throw new Error("no");
      }
    }
    const before = device.gpu.memory().liveBytes;
    expect(() => Refusing.init(device.gpu, { dim: 4 })).toThrow("no");
    expect(device.gpu.memory().liveBytes).toBe(before);
  });

  it("refuses parameters that are missing, unknown, or of another shape or dtype, by name", () => {
    using made = Scale.init(device.gpu, { dim: 4 });
    const all = { ...made.parameters(), ...made.buffers() };
    const { weight, ...rest } = all;
    expect(() => new Scale({ dim: 4 }, rest)).toThrow(
      "Scale: parameter weight is missing; it must have shape [4]",
    );
    expect(() => new Scale({ dim: 4 }, { ...all, weigth: weight! })).toThrow('did you mean "weight"?');
    expect(() => new Scale({ dim: 2 }, all)).toThrow("parameter weight has shape [4]; it must be [2]");
    using ints = device.gpu.tensor([1, 2, 3, 4], [4], "i32");
    expect(() => new Scale({ dim: 4 }, { ...all, weight: ints })).toThrow("parameter weight is i32");
  });
});
