import { expectOwnDevice } from "../base/abi.js";
import { ConfigError, DTypeError, KernelsError, ShapeError } from "../base/errors.js";
import { isFloat, STORED_RULE } from "../base/dtype.js";
import type { Tensor } from "./tensor.js";
import {
  checkConfig,
  expectFloat,
  expectFunction,
  expectList,
  expectRecord,
  expectTensor,
  expectTensorList,
  showShape,
} from "../base/validate.js";
import { show } from "../base/show.js";
import { addInto } from "./reduce.js";

/** What a forward hands over: its outputs, and extra tensors that the backward needs. */
export interface ForwardResult {
  readonly outputs: readonly Tensor[];
  readonly saved?: readonly Tensor[];
}

export interface BackwardContext {
  /** Gradient of each output; undefined stands for zero. At least one is defined. */
  readonly grads: readonly (Tensor | undefined)[];
  readonly inputs: readonly (Tensor | undefined)[];
  readonly outputs: readonly Tensor[];
  readonly saved: readonly Tensor[];
  /** Which inputs need a gradient. */
  readonly needs: readonly boolean[];
}

/** A differentiable operation: a forward and its vector-Jacobian product. */
export interface OpSpec {
  /** Names the op in errors. */
  readonly name: string;
  readonly inputs: readonly (Tensor | undefined)[];
  readonly forward: () => ForwardResult;
  /** One entry per input: its gradient, or undefined for zero. Omit for ops without a gradient. */
  readonly backward?: (context: BackwardContext) => readonly (Tensor | undefined)[];
  /** The op takes tensors that are only stored; elsewhere they are refused. Default: false. */
  readonly stored?: boolean;
}

interface Entry {
  readonly spec: OpSpec;
  readonly outputs: readonly Tensor[];
  readonly saved: readonly Tensor[];
  readonly needs: readonly boolean[];
  readonly held: readonly Tensor[];
}

/** The operations of one forward pass, in order, with what their gradients need. */
class Tape {
  readonly #entries: Entry[] = [];
  readonly #tracked: Set<Tensor> = new Set<Tensor>();

  track(tensor: Tensor): void {
    this.#tracked.add(tensor);
  }

  tracks(tensor: Tensor): boolean {
    return this.#tracked.has(tensor);
  }

  push(spec: OpSpec, result: ForwardResult, needs: readonly boolean[]): void {
    const saved = result.saved ?? [];
    const held = [...spec.inputs.filter((t) => t !== undefined), ...result.outputs, ...saved];
    for (const tensor of held) tensor.hold();
    this.#entries.push({ spec, outputs: result.outputs, saved, needs, held });
    for (const output of result.outputs) if (isFloat(output.dtype)) this.track(output);
  }

  pop(): Entry | undefined {
    return this.#entries.pop();
  }

  release(entry: Entry): void {
    for (const tensor of entry.held) tensor.unhold();
  }

  clear(): void {
    for (let entry = this.pop(); entry; entry = this.pop()) this.release(entry);
    this.#tracked.clear();
  }
}

let current: Tape | undefined;

function withTape<T>(tape: Tape | undefined, fn: () => T): T {
  const previous = current;
  current = tape;
  try {
    return fn();
  } finally {
    current = previous;
  }
}

/** True while a tape is written and a gradient could flow to one of the tensors. */
export function isTracked(tensors: readonly (Tensor | undefined)[]): boolean {
  expectList("isTracked", "tensors", tensors, "tensors");
  const tape = current;
  return tape !== undefined && tensors.some((t) => t !== undefined && tape.tracks(t));
}

const SPEC_KEYS = ["name", "inputs", "forward", "backward", "stored"];

/** @throws ConfigError */
function checkSpec(spec: OpSpec): void {
  checkConfig("applyOp", spec, SPEC_KEYS);
  const { name, inputs, forward, backward } = spec;
  if (typeof name !== "string")
    throw new ConfigError("applyOp", `name is ${show(name)}; it must be text that names the op in errors`);
  expectList(name, "inputs", inputs, "tensors");
  expectFunction(name, "forward", forward);
  if (backward !== undefined) expectFunction(name, "backward", backward);
}

/**
 * Run a differentiable operation and put it on the tape if one is being written and an input is tracked. Inside
 * `forward` and `backward` nothing is taped, and tensors that they do not return are freed.
 *
 * @throws ConfigError for a description with unknown, missing or wrong parts
 */
export function applyOp(spec: OpSpec): Tensor[] {
  checkSpec(spec);
  spec.inputs.forEach((input, i) => {
    if (input === undefined) return;
    expectTensor(spec.name, `inputs[${i}]`, input);
    if (input.stored && spec.stored !== true)
      throw new DTypeError(spec.name, `inputs[${i}] is ${input.dtype}, on this device ${STORED_RULE}`);
  });
  const first = spec.inputs.find((t) => t !== undefined);
  if (!first) throw new ConfigError(spec.name, "was given no tensor; one of its inputs must be one");
  const gpu = first.gpu;
  expectOwnDevice(gpu);
  for (const input of spec.inputs) {
    if (input === undefined) continue;
    if (input.gpu !== gpu)
      throw new KernelsError(spec.name, "its tensors are on different devices; they must be on one");
    void input.storage; // throws if it was freed
  }
  const tape = current;
  const needs = spec.inputs.map(
    (t) => t !== undefined && tape !== undefined && isFloat(t.dtype) && tape.tracks(t),
  );
  const recorded = tape !== undefined && needs.includes(true);
  if (recorded && spec.backward === undefined) {
    throw new KernelsError(spec.name, "has no gradient; apply stopGradient to its inputs");
  }
  const outputs: Tensor[] = [];
  gpu.within((scope) =>
    withTape(undefined, () => {
      const result = spec.forward();
      expectList(
        spec.name,
        "what forward returns as outputs",
        (result as Partial<ForwardResult> | undefined)?.outputs,
        "tensors",
      );
      for (const output of result.outputs) {
        expectTensor(spec.name, "an output of forward", output);
        outputs.push(scope.tensors.has(output) ? output : output.alias(output.shape));
      }
      if (recorded) tape.push(spec, { outputs, saved: result.saved ?? [] }, needs);
      return outputs;
    }),
  );
  return outputs;
}

/** A function's outputs and the map from their cotangents to the gradients of the chosen inputs. */
export interface Pullback {
  readonly outputs: Tensor[];
  /** Gradients in the order of `wrt`; zeros where there is no path. May be called once. */
  readonly pullback: (cotangents: readonly (Tensor | undefined)[]) => Tensor[];
  /** Free what the pullback would need, when it will not be called. */
  readonly dispose: () => void;
}

/**
 * Vector-Jacobian product: run `fn` and keep what is needed to pull cotangents of its outputs back to `wrt`.
 *
 * What `fn` makes is freed as soon as no gradient needs it; the outputs belong to the caller's scope.
 *
 * @throws ConfigError for a function or list that is none, and inside another vjp; DTypeError for integer tensors
 */
export function vjp(fn: () => Tensor[], wrt: readonly Tensor[]): Pullback {
  expectFunction("vjp", "fn", fn);
  expectTensorList("vjp", "wrt", wrt);
  const { gpu } = wrt[0] as Tensor;
  expectOwnDevice(gpu);
  if (current)
    throw new ConfigError("vjp", "called inside another vjp; gradients of gradients are not supported");
  for (const tensor of wrt) {
    expectFloat("vjp", "wrt holds a tensor that", tensor);
  }
  const tape = new Tape();
  for (const tensor of wrt) tape.track(tensor);
  for (const tensor of wrt) tensor.hold();
  let open = true;
  const close = (): void => {
    if (!open) return;
    open = false;
    tape.clear();
    for (const tensor of wrt) tensor.unhold();
  };
  let outputs: Tensor[];
  try {
    outputs = withTape(tape, () =>
      gpu.scope(() => {
        const made = fn();
        expectList("vjp", "what fn returns", made, "tensors");
        for (const output of made) expectTensor("vjp", "an output of fn", output);
        return made;
      }),
    );
  } catch (error) {
    close();
    throw error;
  }
  gpu.currentScope?.endings.push(close);
  // An output may be one of `wrt`, or be given twice; cotangents are then summed.
  const pullback = (cotangents: readonly (Tensor | undefined)[]): Tensor[] => {
    if (!open)
      throw new ConfigError(
        "vjp",
        "pullback was called twice, or after its scope had ended; it runs once, inside the scope of its forward pass",
      );
    expectList("vjp", "cotangents", cotangents, "tensors");
    cotangents.forEach((cotangent, i) => {
      if (cotangent !== undefined) expectTensor("vjp", `cotangents[${i}]`, cotangent);
    });
    if (cotangents.length !== outputs.length) {
      throw new ShapeError(
        "vjp",
        `given ${String(cotangents.length)} cotangents for ${String(outputs.length)} outputs; there must be one for each, or undefined`,
      );
    }
    try {
      return gpu.scope(() => backward(tape, outputs, cotangents, wrt));
    } finally {
      close();
    }
  };
  return { outputs, pullback, dispose: close };
}

function backward(
  tape: Tape,
  outputs: readonly Tensor[],
  cotangents: readonly (Tensor | undefined)[],
  wrt: readonly Tensor[],
): Tensor[] {
  const gradients = new Map<Tensor, Tensor>();
  const wanted = new Set(wrt);
  const accumulate = (who: string, target: Tensor, gradient: Tensor): void => {
    if (
      gradient.shape.length !== target.shape.length ||
      gradient.shape.some((n, i) => n !== target.shape[i])
    ) {
      throw new ShapeError(
        who,
        `its gradient has shape ${showShape(gradient.shape)}; the tensor has ${showShape(target.shape)}`,
      );
    }
    if (gradient.dtype !== target.dtype) {
      throw new DTypeError(who, `its gradient is ${gradient.dtype}; the tensor is ${target.dtype}`);
    }
    const sofar = gradients.get(target);
    if (!sofar) {
      gradients.set(target, gradient);
      return;
    }
    gradients.set(target, addInto(sofar, gradient));
    sofar.dispose();
    gradient.dispose();
  };
  outputs.forEach((output, i) => {
    const cotangent = cotangents[i];
    if (cotangent && tape.tracks(output)) accumulate("vjp", output, cotangent.alias(cotangent.shape));
  });
  for (let entry = tape.pop(); entry; entry = tape.pop()) {
    const { spec, needs } = entry;
    const grads = entry.outputs.map((output) => gradients.get(output));
    try {
      if (grads.some((g) => g !== undefined)) {
        const owned = new Set<Tensor>();
        const results = spec.inputs[0]?.gpu ?? spec.inputs.find((t) => t)?.gpu;
        results?.within((scope) =>
          withTape(undefined, () => {
            const context = { grads, inputs: spec.inputs, outputs: entry.outputs, saved: entry.saved, needs };
            const given = spec.backward?.(context) ?? [];
            spec.inputs.forEach((input, i) => {
              const gradient = given[i];
              if (!input || !gradient || needs[i] !== true) return;
              // Each slot owns its tensor: what is not the backward's own, or is given twice, is shared by an alias.
              const own =
                scope.tensors.has(gradient) && !owned.has(gradient)
                  ? gradient
                  : gradient.alias(gradient.shape);
              owned.add(own);
              accumulate(spec.name, input, own);
            });
            return [...gradients.values()].filter((t) => scope.tensors.has(t));
          }),
        );
      }
      for (const output of entry.outputs) {
        if (wanted.has(output)) continue;
        gradients.get(output)?.dispose();
        gradients.delete(output);
      }
    } finally {
      tape.release(entry);
    }
  }
  return wrt.map((tensor, i) => {
    const gradient = gradients.get(tensor);
    if (!gradient) return tensor.gpu.zeros(tensor.shape, tensor.dtype);
    return wrt.indexOf(tensor) === i ? gradient : gradient.alias(gradient.shape);
  });
}

/**
 * Value of a scalar loss and its gradients with respect to named parameters (zeros for those it does not use).
 *
 * @throws ShapeError if the loss has more than one element; ConfigError for what is not a function or a tensor
 */
export function valueAndGrad<K extends string>(
  loss: () => Tensor,
  parameters: Readonly<Record<K, Tensor>>,
): { value: Tensor; grads: Record<K, Tensor> } {
  const who = "valueAndGrad";
  expectFunction(who, "loss", loss);
  expectRecord(who, "parameters", parameters);
  const names = Object.keys(parameters) as K[];
  const wrt = names.map((name) => parameters[name]);
  wrt.forEach((parameter, i) => {
    expectTensor(who, `parameter ${names[i] as string}`, parameter);
  });
  const run = vjp(() => {
    const one = loss();
    expectTensor(who, "what loss returns", one);
    return [one];
  }, wrt);
  const value = run.outputs[0] as Tensor;
  if (value.size !== 1) {
    run.dispose();
    throw new ShapeError(who, `the loss has shape ${showShape(value.shape)}; it must have one element`);
  }
  const gpu = value.gpu;
  const seed = gpu.full(value.shape, 1, value.dtype);
  const gradients = run.pullback([seed]);
  seed.dispose();
  const grads = Object.fromEntries(names.map((name, i) => [name, gradients[i]])) as Record<K, Tensor>;
  return { value, grads };
}

/** The same values, as a constant for the gradient. */
export function stopGradient(x: Tensor): Tensor {
  expectTensor("stopGradient", "x", x);
  return x.alias(x.shape);
}

/** Run `fn` without writing the tape. */
export function noGrad<T>(fn: () => T): T {
  expectFunction("noGrad", "fn", fn);
  return withTape(undefined, fn);
}

/**
 * Run `fn` without keeping its intermediates; the backward runs it again (Chen et al. 2016, "Training Deep Nets
 * with Sublinear Memory Cost"). Gradients flow to `inputs` only, so name every tensor `fn` depends on.
 */
export function checkpoint(fn: (...inputs: Tensor[]) => Tensor[], inputs: readonly Tensor[]): Tensor[] {
  expectFunction("checkpoint", "fn", fn);
  expectTensorList("checkpoint", "inputs", inputs);
  return applyOp({
    name: "checkpoint",
    inputs,
    forward: () => ({ outputs: fn(...inputs) }),
    backward: ({ grads, needs }) => {
      const chosen = inputs.filter((_, i) => needs[i]);
      const gradients = vjp(() => fn(...inputs), chosen).pullback(grads);
      let next = 0;
      return inputs.map((_, i) => (needs[i] ? gradients[next++] : undefined));
    },
  });
}
