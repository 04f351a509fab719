import { cast, type Gpu, type Tensor } from "@x/kernels";
import type { OnnxArray, OnnxCase } from "./format.js";

/** The public API has no way to say what a case asks for; the message says what is missing. */
export class NotExpressible extends Error {}

const FLOATS = ["F32", "F64", "F16"];

/** A case on a device: its inputs as tensors or as numbers of the host, and its attributes. */
export class OnnxNode {
  readonly gpu: Gpu;
  readonly #case: OnnxCase;
  readonly #read = new Set<string>();

  constructor(gpu: Gpu, of: OnnxCase) {
    this.gpu = gpu;
    this.#case = of;
  }

  get opset(): number {
    return this.#case.opset;
  }

  /** How many outputs the node has, those left out included. */
  get outputs(): number {
    return this.#case.outputs.length;
  }

  get inputs(): number {
    return this.#case.inputs.length;
  }

  /** Is the output asked for? */
  wants(i: number): boolean {
    return (this.#case.outputs[i] ?? "") !== "";
  }

  array(i: number): OnnxArray | undefined {
    return this.#case.given[this.#case.inputs[i] ?? ""];
  }

  /** The numbers of an input, which says how an operation is called. */
  host(i: number): readonly number[] | undefined {
    return this.array(i)?.data;
  }

  /** An input on the device: F64 as f32, integers and flags as i32. */
  input(i: number): Tensor | undefined {
    const array = this.array(i);
    return array && this.upload(array);
  }

  need(i: number): Tensor {
    const tensor = this.input(i);
    if (!tensor) throw new Error(`input ${String(i)} is missing`);
    return tensor;
  }

  /** An input of floating type as f32: what an op takes in this type alone is cast. */
  float(i: number): Tensor | undefined {
    const tensor = this.input(i);
    return tensor && cast(tensor, "f32");
  }

  upload({ data, shape, dtype }: OnnxArray): Tensor {
    const to = dtype === "F16" ? "f16" : FLOATS.includes(dtype) ? "f32" : "i32";
    if (to === "f16" && !this.gpu.features.f16) throw new NotExpressible("this adapter has no shader-f16");
    return this.gpu.tensor([...data], shape, to);
  }

  /** Integers of the host as a tensor of indices; those below 0 count from the end of an axis, as ONNX has it. */
  indices(i: number, extent: (place: number) => number): Tensor {
    const array = this.array(i)!;
    const data = array.data.map((value, place) => (value < 0 ? value + extent(place) : value));
    return this.gpu.tensor(data, array.shape, "i32");
  }

  #attribute(name: string): unknown {
    this.#read.add(name);
    return this.#case.attributes[name];
  }

  number(name: string, otherwise: number): number {
    return this.optional(name) ?? otherwise;
  }

  optional(name: string): number | undefined {
    return this.#attribute(name) as number | undefined;
  }

  flag(name: string): boolean {
    return this.number(name, 0) !== 0;
  }

  text(name: string, otherwise: string): string {
    return (this.#attribute(name) as string | undefined) ?? otherwise;
  }

  list(name: string): readonly number[] | undefined {
    return this.#attribute(name) as readonly number[] | undefined;
  }

  /** Attributes that the mapping did not look at: it would ignore them. */
  unread(): string[] {
    return Object.keys(this.#case.attributes).filter((name) => !this.#read.has(name));
  }
}

/** Compute a node's outputs by the public API, in the node's order; an output that is left out may be undefined. */
export type OnnxMapping = (node: OnnxNode) => readonly (Tensor | undefined)[];
export type OnnxMappings = Readonly<Record<string, OnnxMapping>>;
