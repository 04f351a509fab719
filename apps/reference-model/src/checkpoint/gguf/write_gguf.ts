import type { WrittenValue } from "./architectures/index.js";
import { TENSOR_TYPES, typeNumber } from "./tensor_types.js";

/** A tensor to be written; its bytes are asked for when it is its turn, in one piece or several. */
export interface WrittenTensor {
  readonly name: string;
  readonly type: string;
  /** Slowest axis first. */
  readonly shape: readonly number[];
  readonly bytes: () => AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
}

const VERSION = 3;
const ALIGNMENT = 32;

/** Grows as it is written. */
class Bytes {
  #bytes = new Uint8Array(4096);
  #length = 0;

  #room(count: number): DataView {
    if (this.#length + count > this.#bytes.length) {
      const larger = new Uint8Array(2 * (this.#length + count));
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    const view = new DataView(this.#bytes.buffer, this.#length, count);
    this.#length += count;
    return view;
  }

  u32(value: number): void {
    this.#room(4).setUint32(0, value, true);
  }
  u64(value: number): void {
    this.#room(8).setBigUint64(0, BigInt(value), true);
  }
  f32(value: number): void {
    this.#room(4).setFloat32(0, value, true);
  }
  i32(value: number): void {
    this.#room(4).setInt32(0, value, true);
  }
  byte(value: number): void {
    this.#room(1).setUint8(0, value);
  }
  string(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.u64(bytes.length);
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.#length - bytes.length);
  }
  taken(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }
}

/** The number of each type of value in a file. */
const VALUE_TYPES = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8 } as const;
const ARRAY = 9;

/** The value of a pair, behind its type. */
function writeValue(out: Bytes, given: WrittenValue): void {
  switch (given.type) {
    case "bool":
      out.byte(given.value ? 1 : 0);
      return;
    case "u32":
    case "i32":
    case "f32":
      out[given.type](given.value);
      return;
    case "string":
      out.string(given.value);
      return;
    case "strings":
      out.u32(VALUE_TYPES.string);
      out.u64(given.value.length);
      for (const text of given.value) out.string(text);
      return;
    case "f32s":
    case "i32s": {
      const type = given.type === "f32s" ? "f32" : "i32";
      out.u32(VALUE_TYPES[type]);
      out.u64(given.value.length);
      for (const number of given.value) out[type](number);
    }
  }
}

const typeOf = ({ type }: WrittenValue): number =>
  type === "strings" || type === "f32s" || type === "i32s" ? ARRAY : VALUE_TYPES[type];

/** Bytes that a tensor takes in a file. */
function sizeOf({ type, shape }: WrittenTensor): number {
  const { values, bytes } = TENSOR_TYPES.get(typeNumber(type))!;
  return (shape.reduce((a, b) => a * b, 1) / values) * bytes;
}

const padding = (size: number): Uint8Array => new Uint8Array((ALIGNMENT - (size % ALIGNMENT)) % ALIGNMENT);

/** The bytes of a GGUF file (version 3, little-endian), piece by piece: no more than one piece is in memory. */
export async function* ggufBytes(
  metadata: Readonly<Record<string, WrittenValue>>,
  tensors: readonly WrittenTensor[],
): AsyncGenerator<Uint8Array> {
  const out = new Bytes();
  for (const character of "GGUF") out.byte(character.charCodeAt(0));
  out.u32(VERSION);
  out.u64(tensors.length);
  out.u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) {
    out.string(key);
    out.u32(typeOf(value));
    writeValue(out, value);
  }
  let offset = 0;
  for (const tensor of tensors) {
    out.string(tensor.name);
    out.u32(tensor.shape.length);
    for (const size of tensor.shape.toReversed()) out.u64(size);
    out.u32(typeNumber(tensor.type));
    out.u64(offset);
    const size = sizeOf(tensor);
    offset += size + padding(size).length;
  }
  const header = out.taken();
  yield header;
  yield padding(header.length);
  for (const tensor of tensors) {
    yield* tensor.bytes();
    yield padding(sizeOf(tensor));
  }
}
