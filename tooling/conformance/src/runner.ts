import { vjp, type Gpu, type Tensor } from "@x/kernels";
import { relativeError } from "@x/kernels/testing";
import { chunksOf } from "./golden/chunks.js";
import type { GoldenArray, GoldenCase } from "./golden/format.js";

/** What a mechanism's runner is given: configuration, and tensors by their golden names. */
export interface RunnerContext {
  readonly gpu: Gpu;
  readonly config: Readonly<Record<string, unknown>>;
  /** Inputs and params by name. */
  readonly inputs: Readonly<Record<string, Tensor>>;
  readonly params: Readonly<Record<string, Tensor>>;
  /** The numbers of an integer input, which a host table may be built from. */
  readonly host: (name: string) => ArrayLike<number>;
}

/** Values that were computed on the host count as outputs too. */
export type RunnerOutput = Tensor | GoldenArray;

/** Compute a mechanism's outputs by their golden names; runs on the tape. */
export interface Runner {
  (context: RunnerContext): Record<string, RunnerOutput>;
  /** The same with a cache, on the pieces that the case's `chunks` or `prefill` name; runs without the tape. */
  readonly chunked?: (context: RunnerContext) => Record<string, RunnerOutput>;
}

/** A runner whose cases must hold in pieces too. */
export function withChunks(
  whole: (context: RunnerContext) => Record<string, RunnerOutput>,
  chunked: (context: RunnerContext) => Record<string, RunnerOutput>,
): Runner {
  return Object.assign((context: RunnerContext) => whole(context), { chunked });
}

export interface CaseResult {
  readonly passed: boolean;
  /** Largest error of each output and gradient ("out", "grad x"), or why there is none. */
  readonly errors: Readonly<Record<string, number>>;
  readonly failure?: string;
}

function isTensor(value: RunnerOutput): value is Tensor {
  return "gpu" in value;
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}

/** Run one golden case forward and backward. */
export async function runCase(
  gpu: Gpu,
  runner: Runner,
  golden: GoldenCase,
  tolerance: { out: number; grad: number },
): Promise<CaseResult> {
  const errors: Record<string, number> = {};
  const made: Tensor[] = [];
  const upload = (arrays: Readonly<Record<string, GoldenArray>>): Record<string, Tensor> =>
    Object.fromEntries(
      Object.entries(arrays).map(([name, { shape, data }]) => {
        const tensor = gpu.tensor(data, shape, data instanceof Int32Array ? "i32" : "f32");
        made.push(tensor);
        return [name, tensor];
      }),
    );
  try {
    const inputs = upload(golden.inputs);
    const params = upload(golden.params);
    const host = (name: string): ArrayLike<number> => (golden.inputs[name] ?? golden.params[name])!.data;
    const wanted = Object.keys(golden.grads);
    const wrt = wanted.map((name) => params[name] ?? inputs[name]!);
    let results: Record<string, RunnerOutput> = {};
    const names: string[] = [];
    const run = (): Tensor[] => {
      results = runner({ gpu, config: golden.config, inputs, params, host });
      names.length = 0;
      return Object.entries(results).flatMap(([name, value]) => {
        if (!isTensor(value)) return [];
        names.push(name);
        return [value];
      });
    };
    const tape = wrt.length > 0 ? vjp(run, wrt) : { outputs: gpu.scope(run), pullback: undefined };
    made.push(...tape.outputs);
    for (const [name, expected] of Object.entries(golden.outputs)) {
      const value = results[name];
      if (!value) throw new Error(`output ${name} is missing`);
      const tensor = isTensor(value) ? tape.outputs[names.indexOf(name)]! : value;
      if (!sameShape(tensor.shape, expected.shape)) {
        throw new Error(
          `output ${name} has shape [${tensor.shape.join(", ")}]; it must be [${expected.shape.join(", ")}]`,
        );
      }
      errors[name] = relativeError(isTensor(tensor) ? await tensor.read() : tensor.data, expected.data);
    }
    if (tape.pullback) {
      const cotangents = names.map((name) => {
        const given = golden.cotangents[name];
        return given && gpu.tensor(given.data, given.shape);
      });
      const grads = tape.pullback(cotangents);
      made.push(...grads, ...cotangents.filter((t) => t !== undefined));
      for (const [i, name] of wanted.entries()) {
        errors[`grad ${name}`] = relativeError(await grads[i]!.read(), golden.grads[name]!.data);
      }
    }
    if (chunksOf(golden.config)) {
      if (!runner.chunked) throw new Error("the case has chunks; the runner does not know how to run them");
      const { chunked } = runner;
      const parts = gpu.scope(() => chunked({ gpu, config: golden.config, inputs, params, host }));
      for (const [name, value] of Object.entries(parts)) {
        if (isTensor(value)) made.push(value);
        const expected = golden.outputs[name];
        if (!expected) throw new Error(`chunks give an output ${name} that the case does not have`);
        if (!sameShape(value.shape, expected.shape))
          throw new Error(`output ${name} of the chunks has shape [${value.shape.join(", ")}]`);
        errors[`${name} in chunks`] = relativeError(
          isTensor(value) ? await value.read() : value.data,
          expected.data,
        );
      }
    }
    const passed = Object.entries(errors).every(
      ([name, error]) => error <= (name.startsWith("grad ") ? tolerance.grad : tolerance.out),
    );
    return { passed, errors };
  } catch (error) {
    return { passed: false, errors, failure: error instanceof Error ? error.message : String(error) };
  } finally {
    for (const tensor of made) tensor.dispose();
  }
}
