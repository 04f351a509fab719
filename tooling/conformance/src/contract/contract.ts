import {
  randomNormal,
  slice,
  type Component,
  type Gpu,
  type ParameterPlan,
  type Schema,
  type State,
  type Tensor,
} from "@x/kernels";
import { relativeError } from "@x/kernels/testing";

type Parameters = Readonly<Record<string, Tensor>>;
/** A method of a component, as a table of different ones sees it. */
type Forward = (...given: unknown[]) => unknown;

/** The static side of a component class, as a table of different ones sees it. */
export interface AnyComponentClass {
  readonly name: string;
  plan(config: object): ParameterPlan;
  init(gpu: Gpu, config: object, options?: object, parts?: object): Component<Schema>;
  new (config: object, parameters: Parameters, parts?: object): Component<Schema>;
}

/** A class and what to call it with. */
export interface ContractCase {
  readonly of: AnyComponentClass;
  readonly config: object;
  /** Parts for the constructor; they are disposed afterwards. */
  readonly parts?: (gpu: Gpu) => Record<string, { dispose(): void }>;
  /** What the forward pass takes besides x. */
  readonly options?: (gpu: Gpu) => object;
  /** Where x is not [1, 6, 8]. */
  readonly x?: (gpu: Gpu) => Tensor;
  /** Another call than `forward(x, options)`; a piece of a sequence comes with `{ state }`. */
  readonly call?: (
    method: (name: string) => Forward,
    x: Tensor,
    gpu: Gpu,
    state: { readonly state?: State },
  ) => Tensor;
  /** Size of a state, for what can be called piece by piece. */
  readonly state?: { readonly batch: number; readonly maxLength?: number };
}

const SEQ = 6;
const usualX = (gpu: Gpu): Tensor => randomNormal(gpu, [1, SEQ, 8], { seed: 3 });

function methodOf(component: Component<Schema>, name: string): Forward {
  return (Reflect.get(component, name) as Forward).bind(component);
}

function run(
  c: ContractCase,
  component: Component<Schema>,
  gpu: Gpu,
  given?: Tensor,
  state: { readonly state?: State } = {},
): Tensor {
  return gpu.scope(() => {
    const x = given ?? (c.x ?? usualX)(gpu);
    return c.call
      ? c.call((name) => methodOf(component, name), x, gpu, state)
      : (methodOf(component, "forward")(x, { ...c.options?.(gpu), ...state }) as Tensor);
  });
}

const errorOf = (f: () => { dispose(): void }): string => {
  try {
    f().dispose();
    return "nothing";
  } catch (error) {
    return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  }
};

/** What a class does that the contract of components forbids. */
export async function contractFaults(gpu: Gpu, c: ContractCase): Promise<string[]> {
  const before = gpu.memory().liveBytes;
  const faults = await faultsWithParts(gpu, c);
  const left = gpu.memory().liveBytes - before;
  return left === 0 ? faults : [...faults, `${left} bytes stay after everything was disposed`];
}

async function faultsWithParts(gpu: Gpu, c: ContractCase): Promise<string[]> {
  const parts = c.parts?.(gpu);
  const drawn = c.of.init(gpu, c.config, { seed: 5 }, parts);
  const own = new Set(Object.keys(c.of.plan(c.config)));
  const all: Parameters = { ...drawn.parameters(), ...drawn.buffers() };
  const parameters = Object.fromEntries(Object.entries(all).filter(([name]) => own.has(name)));
  try {
    return [
      ...namesFaults(own, all, parts),
      ...refusals(gpu, c, parameters, parts),
      ...(await remadeFaults(gpu, c, drawn, parameters, parts)),
      ...(await stateFaults(gpu, c, drawn)),
    ];
  } finally {
    drawn.dispose();
    for (const part of Object.values(parts ?? {})) part.dispose();
  }
}

/** The plan's names are those of the parameters and buffers; others begin with a part's name. */
function namesFaults(own: ReadonlySet<string>, all: Parameters, parts: object | undefined): string[] {
  const prefixes = Object.keys(parts ?? {}).map((name) => `${name}.`);
  const foreign = Object.keys(all).filter(
    (name) => !own.has(name) && !prefixes.some((prefix) => name.startsWith(prefix)),
  );
  const missing = [...own].filter((name) => !(name in all));
  return [
    ...foreign.map((name) => `parameter ${name} is not in the plan`),
    ...missing.map((name) => `planned ${name} is not among the parameters`),
  ];
}

/** A parameter that is missing, one too many and one of another shape are refused by name. */
function refusals(gpu: Gpu, c: ContractCase, parameters: Parameters, parts: object | undefined): string[] {
  const faults: string[] = [];
  const demand = (what: string, given: Parameters, ...words: string[]): void => {
    const error = errorOf(() => new c.of(c.config, given, parts));
    if (!words.every((word) => error.includes(word))) faults.push(`${what}: ${error}`);
  };
  for (const [name, tensor] of Object.entries(parameters)) {
    const rest = Object.fromEntries(Object.entries(parameters).filter(([key]) => key !== name));
    demand(`without ${name}`, rest, "ConfigError", name);
    const wrong = gpu.zeros([...tensor.shape, 2]);
    demand(`${name} with another axis`, { ...parameters, [name]: wrong }, "ShapeError", name);
    wrong.dispose();
  }
  const extra = gpu.zeros([1]);
  demand("one too many", { ...parameters, nosuch: extra }, "ConfigError", "nosuch");
  extra.dispose();
  return faults;
}

/** A component made of another one's parameters computes the same, and leaves them when it is disposed. */
async function remadeFaults(
  gpu: Gpu,
  c: ContractCase,
  drawn: Component<Schema>,
  parameters: Parameters,
  parts: object | undefined,
): Promise<string[]> {
  const copy = new c.of(c.config, parameters, parts);
  const outputs = [run(c, drawn, gpu), run(c, copy, gpu)] as const;
  const [a, b] = [await outputs[0].read(), await outputs[1].read()];
  for (const out of outputs) out.dispose();
  copy.dispose();
  return [
    ...(a.every(Number.isFinite) ? [] : ["the output is not finite"]),
    ...(a.length === b.length && a.every((value, i) => value === b[i])
      ? []
      : ["made anew, it computes otherwise"]),
    ...Object.entries(parameters).flatMap(([name, tensor]) =>
      tensor.disposed ? [`dispose frees ${name}, which was given`] : [],
    ),
  ];
}

/** Pieces with a state equal the whole; a state that is cleared begins anew. */
async function stateFaults(gpu: Gpu, c: ContractCase, component: Component<Schema>): Promise<string[]> {
  const stateful = "createState" in component;
  if (!c.state) return stateful ? ["it has a state, and the table says no size for one"] : [];
  if (!stateful) return ["it has no createState"];
  const state = methodOf(component, "createState")(c.state) as State;
  const x = (c.x ?? usualX)(gpu);
  const whole = run(c, component, gpu, x);
  const expected = await whole.read();
  const width = expected.length / SEQ;
  const faults: string[] = [];
  for (const sizes of [
    [1, 1, 1, 1, 1, 1],
    [4, 2],
  ]) {
    const found: number[] = [];
    for (const [i, size] of sizes.entries()) {
      const at = sizes.slice(0, i).reduce((sum, n) => sum + n, 0);
      const out = gpu.scope(() =>
        run(c, component, gpu, slice(x, { axis: 1, start: at, end: at + size }), { state }),
      );
      found.push(...(await out.read()));
      out.dispose();
    }
    const error = relativeError(found, expected);
    if (!(error < 1e-4) || width * SEQ !== found.length)
      faults.push(`in pieces of ${sizes.join(", ")} it is off by ${error}`);
    if (!(state.bytes > 0) || !(state.bytesPerToken >= 0)) faults.push("its state says no size");
    state.clear();
  }
  state.dispose();
  for (const tensor of [whole, x]) tensor.dispose();
  return faults;
}
