import { type Gpu, KernelsError, Tensor } from "@x/kernels";

/** A function as JavaScript may call it. */
export type Loose = (...given: unknown[]) => unknown;

/** A valid call of an export: the function, and the arguments that it takes. */
export interface ValidCall {
  readonly call: Loose;
  readonly given: readonly unknown[];
  /** Paths of arguments whose kind is open, with the reason. */
  readonly open?: Readonly<Record<string, string>>;
  /** Values of another kind than that of the valid call that a path takes as well, such as numbers for tensors. */
  readonly takes?: Readonly<Record<string, readonly unknown[]>>;
  /** Paths of records with keys of the caller's choice: a further key is refused for its value, if at all. */
  readonly named?: readonly string[];
}

/** Valid calls of a package by name: functions, and classes' constructors and methods as `Class.method`. */
export type ValidCalls = Readonly<Record<string, (gpu: Gpu) => ValidCall>>;

interface Attempt {
  /** Where the wrong value stands: "2.eps" is the key eps of the third argument. */
  readonly path: string;
  readonly value: unknown;
  readonly given: readonly unknown[];
  /** What the message must say, beside being of a typed error. */
  readonly rule?: RegExp;
  /** A value that may be left out is taken. */
  readonly optional?: true;
}

const isPlain = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;

/** Values of every other kind than that of a valid value. */
function wrongKinds(value: unknown, tensor: Tensor): unknown[] {
  if (Tensor.isInstance(value)) return [null, 0, 5, "text", false, [1, 2, 3], { shape: [2] }];
  if (typeof value === "number") return [null, "3", NaN, true, {}];
  if (typeof value === "boolean") return [null, 1, "yes", {}];
  if (typeof value === "string") return [null, 7, "no such thing", {}];
  if (typeof value === "function") return [null, 5, "text", {}];
  if (Array.isArray(value) || ArrayBuffer.isView(value)) return [null, 3, {}, tensor];
  if (isPlain(value)) return [null, 1, "text", true, [0], tensor];
  return [null, 5, "text", {}];
}

function* attemptsAt(
  path: string,
  value: unknown,
  put: (value: unknown) => readonly unknown[],
  tensor: Tensor,
): Generator<Attempt> {
  yield { path, value: undefined, given: put(undefined), optional: true };
  for (const wrong of wrongKinds(value, tensor)) yield { path, value: wrong, given: put(wrong) };
  if (!isPlain(value)) return;
  const [key = "option"] = Object.keys(value);
  const near = `${key}s`;
  yield {
    path: `${path}.${near}`,
    value: 1,
    given: put({ ...value, [near]: 1 }),
    rule: new RegExp(key === "option" ? `"${near}"` : `"${near}"; did you mean "${key}"`),
  };
  for (const [inner, entry] of Object.entries(value))
    yield* attemptsAt(`${path}.${inner}`, entry, (wrong) => put({ ...value, [inner]: wrong }), tensor);
}

/** Calls with one wrong argument, option or weight each. */
export function* attempts(given: readonly unknown[], tensor: Tensor): Generator<Attempt> {
  for (const [i, value] of given.entries())
    yield* attemptsAt(String(i), value, (wrong) => given.map((v, j) => (j === i ? wrong : v)), tensor);
  yield { path: `${given.length} (one too many)`, value: 1, given: [...given, 1], optional: true };
}

const text = (value: unknown): string =>
  Tensor.isInstance(value) ? "a tensor" : value === undefined ? "undefined" : JSON.stringify(value);

/** What is wrong with the refusals of an export: nothing, if every wrong argument gets a typed error that fits. */
export async function faults(gpu: Gpu, make: (gpu: Gpu) => ValidCall): Promise<string[]> {
  const found: string[] = [];
  const { call, given, open = {}, takes = {}, named = [] } = make(gpu);
  await call(...given);
  for (const attempt of attempts(given, gpu.zeros([2]))) {
    const what = `${attempt.path} = ${text(attempt.value)}`;
    const free = named.some((path) => attempt.path.startsWith(`${path}.`));
    const live = gpu.memory().liveBuffers;
    let thrown: Error | undefined;
    try {
      await call(...attempt.given);
    } catch (error) {
      thrown = error as Error;
    }
    if (thrown === undefined) {
      const fits = takes[attempt.path]?.some((value) => text(value) === text(attempt.value));
      if (!attempt.optional && !(attempt.path in open) && !fits) found.push(`${what} is taken`);
    } else if (!KernelsError.isInstance(thrown) || (!free && attempt.rule?.test(thrown.message) === false)) {
      found.push(`${what}: ${String(thrown)}`);
    } else if (gpu.memory().liveBuffers !== live) {
      found.push(`${what} is refused after buffers were made`);
    }
  }
  return found;
}

/** Names of what a package exports that can be called: functions, constructors, static and other methods. */
export function callables(exported: Readonly<Record<string, unknown>>): string[] {
  /** Without arguments, or what only frees. */
  const plain = new Set(["constructor", "parameters", "buffers", "dispose"]);
  const methods = (owner: object): string[] =>
    Object.entries(Object.getOwnPropertyDescriptors(owner)).flatMap(([name, { value }]) =>
      typeof value === "function" && !plain.has(name) ? [name] : [],
    );
  return Object.entries(exported).flatMap(([name, value]) => {
    if (typeof value !== "function") return [];
    if (!/^class\b/.test(Function.prototype.toString.call(value))) return [name];
    const statics = methods(value).map((method) => `${name}.${method}`);
    return [name, ...statics, ...methods(value.prototype as object).map((method) => `${name}.${method}`)];
  });
}
