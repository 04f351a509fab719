import { ConfigError } from "../base/errors.js";
import { show } from "../base/show.js";
import type { Tensor } from "../tensor/tensor.js";
import { checkConfig, expectFunction, expectObject } from "../base/validate.js";

/** What a kernel's text may depend on besides its variant: the same object for the life of a device. */
export interface KernelEnvironment {
  readonly features: GpuFeatures;
  readonly limits: GPUSupportedLimits;
  readonly info: AdapterDescription;
}

export interface GpuFeatures {
  readonly f16: boolean;
  readonly subgroups: boolean;
  readonly timestampQuery: boolean;
  readonly subgroupMinSize: number;
  readonly subgroupMaxSize: number;
}

export interface AdapterDescription {
  readonly name: string;
  readonly vendor: string;
  readonly architecture: string;
  readonly description: string;
  /** The adapter is a software implementation (llvmpipe, SwiftShader), about 100 times slower than a GPU. */
  readonly software: boolean;
}

/** `"read f32"`, `"write vec4<f32>"`, `"read_write atomic<u32>"`: access, then the element of a runtime-sized array. */
export type BindingSpec = `${"read" | "write" | "read_write"} ${string}`;
export type ParamType = "u32" | "i32" | "f32" | "vec4<u32>" | "vec4<i32>" | "vec4<f32>";

/** Bindings by name, and parameters by name. */
export type Bindings = Readonly<Record<string, BindingSpec>>;
export type Params = Readonly<Record<string, ParamType>>;

/** A kernel: WGSL plus a description of its bindings and parameters, from which the header is generated. */
export interface KernelSource<V, B extends Bindings = Bindings, P extends Params = Params> {
  /** Label of the pipeline; errors and profiles name it. */
  readonly name: string;
  readonly bindings: B | ((variant: V) => B);
  /** Uniform parameters, in the shader as `params.<name>`. */
  readonly params?: P | ((variant: V) => P);
  /** Emit `enable subgroups;`. */
  readonly subgroups?: boolean | ((variant: V) => boolean);
  /** Emit `enable f16;` even if no binding holds f16. */
  readonly f16?: boolean | ((variant: V) => boolean);
  /** Everything after the header, `fn main` included, from the variant, the names above and what the device has. */
  wgsl(variant: V, context: KernelNames<B, P> & KernelEnvironment): string;
}

/** A binding that covers part of a tensor, in elements. */
export interface TensorSlice {
  readonly tensor: Tensor;
  readonly offset: number;
  readonly length: number;
}

/** A binding that covers part of a tensor's buffer, in bytes. */
export interface ByteRange {
  readonly tensor: Tensor;
  readonly byteOffset: number;
  readonly byteLength: number;
}

export type Bindable = Tensor | TensorSlice | ByteRange;
export type ParamValue = number | readonly number[];

/** The keys of every member of a union. */
type KeysOf<T> = T extends unknown ? keyof T : never;
/** The keys that every member of a union must have. */
type CommonKeys<T> = keyof T extends infer K
  ? K extends keyof T
    ? object extends Pick<T, K>
      ? never
      : K
    : never
  : never;
/** A value for each name: required where every variant has the name; another name does not compile. */
type Named<T, Value> =
  string extends KeysOf<T>
    ? Readonly<Record<string, Value | undefined>>
    : { readonly [K in CommonKeys<T>]: Value } & {
        readonly [K in Exclude<KeysOf<T>, CommonKeys<T>>]?: Value | undefined;
      };

/**
 * The names that a kernel declares, as its text spells them: `bindings.x` is "x", `params.count` is "params.count".
 * Another name does not compile.
 */
export interface KernelNames<B extends Bindings = Bindings, P extends Params = Params> {
  readonly bindings: { readonly [K in KeysOf<B> & string]: K };
  readonly params: { readonly [K in KeysOf<P> & string]: `params.${K}` };
}

/** What a dispatch binds and sets; a name that the kernel does not declare does not compile. */
export interface KernelCall<V, B extends Bindings = Bindings, P extends Params = Params> {
  /** Exactly what changes the code, never a shape. */
  readonly variant?: V;
  /** By name; what the variant does not bind may be undefined. */
  readonly bindings: Named<B, Bindable>;
  readonly params?: Named<P, ParamValue>;
  /** Workgroup counts; missing ones are 1; a 0 dispatches nothing. */
  readonly workgroups?: readonly [number, number?, number?];
  /** Take the three counts from a u32 tensor on the GPU instead; `offset` in bytes. */
  readonly indirect?: { readonly tensor: Tensor; readonly offset?: number };
}

export interface Kernel<V, B extends Bindings = Bindings, P extends Params = Params> {
  readonly source: KernelSource<V, B, P>;
}

/**
 * Define a kernel once, at module level; pipelines are created per device on first use.
 *
 * @throws ConfigError for a description with unknown, missing or wrong parts.
 */
export function defineKernel<
  V = undefined,
  const B extends Bindings = Bindings,
  const P extends Params = Params,
>(source: KernelSource<V, B, P>): Kernel<V, B, P> {
  checkConfig("defineKernel", source, ["name", "bindings", "params", "subgroups", "f16", "wgsl"]);
  const { name, bindings } = source;
  if (typeof name !== "string" || name === "")
    throw new ConfigError("defineKernel", `name is ${show(name)}; it must be a string that names the kernel`);
  if (typeof bindings !== "function") expectObject(name, "bindings", bindings);
  expectFunction(name, "wgsl", Reflect.get(source, "wgsl"));
  return { source };
}

const CALL_KEYS = ["variant", "bindings", "params", "workgroups", "indirect"];

/** Check the kernel and the keys of its call. @throws ConfigError */
export function checkCall<V>(kernel: Kernel<V>, call: KernelCall<V>): void {
  const source = (kernel as Partial<Kernel<V>> | undefined)?.source;
  if (source === undefined)
    throw new ConfigError("run", `the kernel is ${show(kernel)}; it must be what defineKernel returns`);
  checkConfig(source.name, call, CALL_KEYS);
  expectObject(source.name, "bindings", call.bindings);
  if (call.params !== undefined) expectObject(source.name, "params", call.params);
}

/** The workgroup counts of a call; [1, 1, 1] where they are taken from the GPU. @throws ConfigError */
export function workgroupsOf<V>(
  kernel: string,
  { workgroups = [1], indirect }: KernelCall<V>,
  limit: number,
): [number, number, number] {
  if (indirect) return [1, 1, 1];
  if (!Array.isArray(workgroups) || workgroups.length > 3)
    throw new ConfigError(
      kernel,
      `workgroups are ${show(workgroups)}; they must be an array of 1 to 3 counts`,
    );
  const [x = 1, y = 1, z = 1] = workgroups as readonly number[];
  for (const count of [x, y, z])
    if (!Number.isInteger(count) || count < 0 || count > limit)
      throw new ConfigError(
        kernel,
        `workgroups are [${x}, ${y}, ${z}]; each must be an integer of at most ${limit}, and not below 0`,
      );
  return [x, y, z];
}

interface ParamField {
  readonly name: string;
  readonly type: ParamType;
  /** Offset in 32-bit words. */
  readonly word: number;
}

/** Layout of a uniform struct: vectors first, then scalars, so host and shader agree without padding rules. */
export interface ParamLayout {
  readonly fields: readonly ParamField[];
  /** Size in 32-bit words, a multiple of four. */
  readonly words: number;
}

function layoutParams(params: Readonly<Record<string, ParamType>>): ParamLayout {
  const entries = Object.entries(params);
  const vectors = entries.filter(([, type]) => type.startsWith("vec4"));
  const scalars = entries.filter(([, type]) => !type.startsWith("vec4"));
  const fields: ParamField[] = [];
  let word = 0;
  for (const [name, type] of vectors) {
    fields.push({ name, type, word });
    word += 4;
  }
  for (const [name, type] of scalars) fields.push({ name, type, word: word++ });
  return { fields, words: Math.ceil(word / 4) * 4 };
}

const packF32 = new Float32Array(1);
const packU32 = new Uint32Array(packF32.buffer);

const WORDS = { u32: [0, 2 ** 32 - 1], i32: [-(2 ** 31), 2 ** 31 - 1] } as const;

/** The word of one parameter. @throws ConfigError for a number that its type does not hold. */
function toWord(kernel: string, { name, type }: ParamField, value: unknown): number {
  const scalar = type.startsWith("vec4") ? type.slice(5, -1) : type;
  if (typeof value !== "number")
    throw new ConfigError(kernel, `parameter ${name} holds ${show(value)}; it must be ${type}`);
  if (scalar === "f32") {
    packF32[0] = value;
    if (Math.abs(packF32[0]) === Infinity && Number.isFinite(value))
      throw new ConfigError(kernel, `parameter ${name} is ${value}, which is infinite as an f32`);
    return packU32[0] ?? 0;
  }
  const [low, high] = WORDS[scalar as "u32" | "i32"];
  if (!Number.isInteger(value) || value < low || value > high)
    throw new ConfigError(
      kernel,
      `parameter ${name} is ${value}; ${scalar} takes integers in ${low}..${high}`,
    );
  return value >>> 0;
}

/** Write parameter values as 32-bit words in the layout's order. */
export function packParams(
  kernel: string,
  layout: ParamLayout,
  values: Readonly<Record<string, ParamValue>>,
): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(layout.words);
  for (const field of layout.fields) {
    const value = values[field.name];
    if (typeof value === "number") {
      if (field.type.startsWith("vec4")) {
        throw new ConfigError(kernel, `parameter ${field.name} is a number; it must be an array of 4`);
      }
      words[field.word] = toWord(kernel, field, value);
    } else if (Array.isArray(value) && field.type.startsWith("vec4") && value.length === 4) {
      for (let i = 0; i < 4; i++) words[field.word + i] = toWord(kernel, field, value[i]);
    } else {
      throw new ConfigError(
        kernel,
        `parameter ${field.name} is ${show(value)}; it must be ${field.type} (given: ${Object.keys(values).join(", ") || "none"})`,
      );
    }
  }
  return words;
}

export interface ResolvedBinding {
  readonly name: string;
  readonly access: "read" | "write" | "read_write";
  readonly element: string;
}

function call<T, V>(value: T | ((variant: V) => T), variant: V): T {
  return typeof value === "function" ? (value as (variant: V) => T)(variant) : value;
}

export function resolveBindings<V>(source: KernelSource<V>, variant: V): ResolvedBinding[] {
  return Object.entries(call(source.bindings, variant)).map(([name, spec]) => {
    const space = spec.indexOf(" ");
    return {
      name,
      access: spec.slice(0, space) as ResolvedBinding["access"],
      element: spec.slice(space + 1),
    };
  });
}

export function resolveParams<V>(source: KernelSource<V>, variant: V): ParamLayout {
  return layoutParams(call(source.params ?? {}, variant));
}

/** The whole shader text: enables, the parameter struct, bindings, then the kernel's own text. */
export function shaderText<V>(
  source: KernelSource<V>,
  variant: V,
  env: KernelEnvironment,
  bindings: readonly ResolvedBinding[],
  params: ParamLayout,
): string {
  const lines: string[] = [];
  const f16 = call(source.f16 ?? false, variant) || bindings.some((b) => b.element.includes("f16"));
  if (f16) lines.push("enable f16;");
  if (call(source.subgroups ?? false, variant)) lines.push("enable subgroups;");
  if (params.fields.length > 0) {
    lines.push("struct Params {", ...params.fields.map((f) => `  ${f.name}: ${f.type},`), "}");
    lines.push("@group(0) @binding(0) var<uniform> params: Params;");
  }
  bindings.forEach((b, index) => {
    const access = b.access === "read" ? "read" : "read_write";
    lines.push(
      `@group(0) @binding(${String(index + 1)}) var<storage, ${access}> ${b.name}: array<${b.element}>;`,
    );
  });
  const context = {
    ...env,
    bindings: Object.fromEntries(bindings.map(({ name }) => [name, name])),
    params: Object.fromEntries(params.fields.map(({ name }) => [name, `params.${name}` as const])),
  };
  lines.push(source.wgsl(variant, context));
  return lines.join("\n");
}

/** Canonical text of a variant: the pipeline cache's key next to the kernel. */
export function variantKey(variant: unknown): string {
  if (variant === undefined || variant === null) return "";
  if (typeof variant !== "object") return JSON.stringify(variant);
  return JSON.stringify(variant, (_, value: unknown) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
    return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  });
}

/** Spread a one-dimensional number of workgroups over two dimensions of at most 65535. */
export function grid1d(groups: number): [number, number] {
  if (groups <= 65535) return [groups, 1];
  const rows = Math.ceil(groups / 65535);
  return [Math.ceil(groups / rows), rows];
}
