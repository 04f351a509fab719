/**
 * The safetensors format: eight bytes with the header's length, a JSON header, then the tensors without gaps.
 * The reader trusts nothing: names, types, shapes, offsets and lengths are checked before a byte is used.
 */
import { fromHalfBits, toBfloat16Bits, toHalfBits } from "./base/dtype.js";
import { FormatError } from "./base/errors.js";

/** Bits of an element of each type that the format knows. */
const BITS = {
  F64: 64,
  F32: 32,
  F16: 16,
  BF16: 16,
  I64: 64,
  I32: 32,
  I16: 16,
  I8: 8,
  U64: 64,
  U32: 32,
  U16: 16,
  U8: 8,
  BOOL: 8,
  C64: 64,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  F6_E3M2: 6,
  F6_E2M3: 6,
  F4: 4,
} as const;

export type SafetensorsDType = keyof typeof BITS;

/** One tensor of a file: its type, shape and the bytes from the start of the data. */
export interface TensorEntry {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  readonly metadata: Readonly<Record<string, string>>;
  readonly entries: ReadonlyMap<string, TensorEntry>;
  /** Where the tensors' bytes start in the file. */
  readonly dataOffset: number;
}

/** Random access to the bytes of a file. */
export interface ByteSource {
  readonly size: number;
  /** Bytes that nothing else writes to: the numbers of a tensor may be a view of them. */
  read(begin: number, end: number): Promise<Uint8Array>;
}

const MAX_HEADER = 100_000_000;

/** The header's length, from the first eight bytes. */
function headerLength(file: string, start: Uint8Array, size: number): number {
  if (size < 8)
    throw new FormatError(file, `has ${size} bytes; a safetensors file starts with eight bytes of length`);
  const view = new DataView(start.buffer, start.byteOffset, 8);
  const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  if (length > MAX_HEADER)
    throw new FormatError(
      file,
      `says that its header has ${length} bytes; at most ${MAX_HEADER} are accepted`,
    );
  if (8 + length > size)
    throw new FormatError(
      file,
      `says that its header has ${length} bytes, but the file has ${size} in all; it is truncated or no safetensors file`,
    );
  return length;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A value of the header as text: short, and safe for what nests deeply. */
function show(value: unknown): string {
  try {
    return (JSON.stringify(value) as string | undefined)?.slice(0, 80) ?? "absent";
  } catch {
    return "nested too deeply";
  }
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function parseEntry(file: string, name: string, value: unknown, dataSize: number): TensorEntry {
  const fail = (reason: string): never => {
    throw new FormatError(file, `tensor ${JSON.stringify(name)}: ${reason}`);
  };
  if (!isRecord(value)) return fail(`its entry is ${show(value)}; it must be an object`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(BITS, dtype)) {
    return fail(`dtype is ${show(dtype)}; it must be one of ${Object.keys(BITS).join(", ")}`);
  }
  if (!Array.isArray(shape) || !shape.every(isCount))
    return fail(`shape is ${show(shape)}; it must list non-negative integers`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    return fail(`data_offsets are ${show(offsets)}; they must be [begin, end]`);
  }
  const [begin, end] = offsets as [number, number];
  const bits = shape.reduce<number>((a, b) => a * b, BITS[dtype as SafetensorsDType]);
  if (!Number.isSafeInteger(bits)) return fail(`shape [${shape.join(", ")}] has too many elements`);
  const bytes = bits / 8;
  if (!Number.isInteger(bytes)) return fail(`${dtype} [${shape.join(", ")}] does not fill whole bytes`);
  if (begin > end || end > dataSize)
    return fail(`data_offsets [${begin}, ${end}] lie outside the ${dataSize} bytes of data (truncated?)`);
  if (end - begin !== bytes)
    return fail(
      `${dtype} [${shape.join(", ")}] takes ${bytes} bytes; data_offsets [${begin}, ${end}] hold ${end - begin}`,
    );
  return { dtype: dtype as SafetensorsDType, shape, begin, end };
}

/** The first key that an object of a JSON text holds twice: JSON.parse keeps the last one without a word. */
function repeatedKey(json: string): string | undefined {
  const objects: (Set<string> | undefined)[] = [];
  let expectKey = false;
  const token = /"(?:[^"\\]|\\.)*"|[{}[\],]/g;
  for (const [found] of json.matchAll(token)) {
    if (found === "{" || found === "[") {
      objects.push(found === "{" ? new Set() : undefined);
      expectKey = found === "{";
    } else if (found === "}" || found === "]") {
      objects.pop();
      expectKey = false;
    } else if (found === ",") expectKey = objects.at(-1) !== undefined;
    else if (expectKey) {
      const key = JSON.parse(found) as string;
      if (objects.at(-1)?.has(key)) return key;
      objects.at(-1)?.add(key);
      expectKey = false;
    }
  }
  return undefined;
}

/** Parse and check a header of a file of `size` bytes. */
function parseHeader(file: string, json: Uint8Array, size: number): SafetensorsHeader {
  let root: unknown;
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(json);
    root = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(
      file,
      `its header is no JSON (${cause instanceof Error ? cause.message : String(cause)})`,
      { cause },
    );
  }
  if (!isRecord(root)) throw new FormatError(file, "its header is no JSON object");
  const repeated = repeatedKey(text);
  if (repeated !== undefined)
    throw new FormatError(file, `its header says ${JSON.stringify(repeated)} twice`);
  const dataOffset = 8 + json.byteLength;
  const dataSize = size - dataOffset;
  const entries = new Map<string, TensorEntry>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(root)) {
    if (name === "__metadata__") {
      if (value === null) continue;
      if (!isRecord(value) || !Object.values(value).every((v) => typeof v === "string")) {
        throw new FormatError(file, "__metadata__ must map names to strings");
      }
      metadata = value as Record<string, string>;
    } else entries.set(name, parseEntry(file, name, value, dataSize));
  }
  let at = 0;
  let last = "";
  for (const [name, entry] of [...entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)) {
    if (entry.begin !== at) {
      const what =
        entry.begin < at
          ? `overlaps ${JSON.stringify(last)}`
          : `leaves a gap of ${entry.begin - at} bytes before it`;
      throw new FormatError(
        file,
        `tensor ${JSON.stringify(name)}: data_offsets [${entry.begin}, ${entry.end}] ${what}`,
      );
    }
    at = entry.end;
    last = name;
  }
  if (at !== dataSize)
    throw new FormatError(
      file,
      `has ${dataSize - at} bytes after the last tensor; it is oversized or its header lies`,
    );
  return { metadata, entries, dataOffset };
}

/** float32 numbers of any floating type of the format; integers of 32 bits and fewer as they are. */
export function decodeTensor(
  file: string,
  name: string,
  entry: TensorEntry,
  bytes: Uint8Array,
): Float32Array | Int32Array {
  const copy = new Uint8Array(bytes).buffer;
  switch (entry.dtype) {
    case "F32":
      return new Float32Array(copy);
    case "F64":
      return Float32Array.from(new Float64Array(copy));
    case "F16":
      return Float32Array.from(new Uint16Array(copy), fromHalfBits);
    case "BF16": {
      const words = Uint32Array.from(new Uint16Array(copy), (half) => half << 16);
      return new Float32Array(words.buffer);
    }
    case "I32":
      return new Int32Array(copy);
    case "I16":
      return Int32Array.from(new Int16Array(copy));
    case "I8":
      return Int32Array.from(new Int8Array(copy));
    case "U16":
      return Int32Array.from(new Uint16Array(copy));
    case "U8":
    case "BOOL":
      return Int32Array.from(new Uint8Array(copy));
    case "I64": {
      const out = new Int32Array(copy.byteLength / 8);
      new BigInt64Array(copy).forEach((value, i) => {
        if (value !== BigInt.asIntN(32, value))
          throw new FormatError(file, `tensor ${JSON.stringify(name)}: ${value} does not fit 32 bits`);
        out[i] = Number(value);
      });
      return out;
    }
    default:
      throw new FormatError(
        file,
        `tensor ${JSON.stringify(name)}: its dtype ${entry.dtype} cannot be read as numbers; bytes() returns it as it is`,
      );
  }
}

/** An open file: its header is checked; tensors are read one by one. */
export class Safetensors {
  readonly file: string;
  readonly header: SafetensorsHeader;
  readonly #source: ByteSource;

  private constructor(file: string, source: ByteSource, header: SafetensorsHeader) {
    this.file = file;
    this.#source = source;
    this.header = header;
  }

  /** @throws FormatError naming the file, the tensor and the reason. */
  static async open(file: string, source: ByteSource): Promise<Safetensors> {
    const length = headerLength(file, await source.read(0, Math.min(8, source.size)), source.size);
    return new Safetensors(file, source, parseHeader(file, await source.read(8, 8 + length), source.size));
  }

  /** A file that is in memory. */
  static parse(file: string, bytes: Uint8Array): Promise<Safetensors> {
    return Safetensors.open(file, {
      size: bytes.byteLength,
      read: (begin, end) => Promise.resolve(bytes.slice(begin, end)),
    });
  }

  get names(): string[] {
    return [...this.header.entries.keys()];
  }

  entry(name: string): TensorEntry {
    const entry = this.header.entries.get(name);
    if (!entry) throw new FormatError(this.file, `has no tensor ${JSON.stringify(name)}`);
    return entry;
  }

  /** The tensor's raw bytes. */
  async bytes(name: string): Promise<Uint8Array> {
    const { begin, end } = this.entry(name);
    const { dataOffset } = this.header;
    const bytes = await this.#source.read(dataOffset + begin, dataOffset + end);
    if (bytes.byteLength !== end - begin)
      throw new FormatError(this.file, `tensor ${JSON.stringify(name)}: the file ended early`);
    return bytes;
  }

  /** The tensor's numbers: float32, or int32 for integer types. */
  async numbers(name: string): Promise<Float32Array | Int32Array> {
    const [entry, bytes] = [this.entry(name), await this.bytes(name)];
    // Large matrices are read once, and not copied.
    if (entry.dtype === "F32" && bytes.byteOffset % 4 === 0)
      return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    return decodeTensor(this.file, name, entry, bytes);
  }
}

/** A tensor to be written. */
export interface TensorData {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
  /** What float32 numbers are rounded to (ties to even); default F32. */
  readonly dtype?: "F32" | "F16" | "BF16";
}

function packed({ data, dtype = "F32" }: TensorData): Float32Array | Int32Array | Uint16Array {
  if (data instanceof Int32Array || dtype === "F32") return data;
  return Uint16Array.from(data, dtype === "F16" ? toHalfBits : toBfloat16Bits);
}

/** @throws FormatError for what the writer does not write */
function checkTensorData(name: string, { data, dtype }: TensorData): void {
  const fail = (reason: string): never => {
    throw new FormatError("writeSafetensors", `tensor ${JSON.stringify(name)}: ${reason}`);
  };
  if (!(data instanceof Float32Array) && !((data as unknown) instanceof Int32Array))
    fail("its data must be a Float32Array or an Int32Array");
  if (dtype !== undefined && !["F32", "F16", "BF16"].includes(dtype))
    fail(`dtype is ${show(dtype)}; it must be one of F32, F16, BF16`);
}

const width = ({ data, dtype = "F32" }: TensorData): number =>
  data instanceof Int32Array || dtype === "F32" ? 4 : 2;

/**
 * The bytes of a file with the given tensors (F32, F16, BF16 or I32): wider elements first, so that all are aligned,
 * then in order of their names.
 */
export function writeSafetensors(
  tensors: Readonly<Record<string, TensorData>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  const names = Object.keys(tensors)
    .sort()
    .sort((a, b) => width(tensors[b]!) - width(tensors[a]!));
  // Without a prototype, so that any name is only a name.
  const header = Object.create(null) as Record<string, unknown>;
  if (Object.keys(metadata).length > 0) header["__metadata__"] = metadata;
  const bodies = names.map((name) => {
    checkTensorData(name, tensors[name]!);
    return packed(tensors[name]!);
  });
  let at = 0;
  for (const [i, name] of names.entries()) {
    const { shape, data, dtype = "F32" } = tensors[name]!;
    const size = shape.reduce((a, b) => a * b, 1);
    if (size !== data.length || name === "__metadata__") {
      throw new FormatError(
        "writeSafetensors",
        `tensor ${JSON.stringify(name)}: shape [${shape.join(", ")}] does not take ${data.length} numbers`,
      );
    }
    header[name] = {
      dtype: data instanceof Int32Array ? "I32" : dtype,
      shape,
      data_offsets: [at, (at += bodies[i]!.byteLength)],
    };
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const padded = Math.ceil(json.byteLength / 8) * 8;
  const out = new Uint8Array(8 + padded + at).fill(0x20, 8, 8 + padded);
  new DataView(out.buffer).setUint32(0, padded, true);
  out.set(json, 8);
  let offset = 8 + padded;
  for (const body of bodies) {
    out.set(new Uint8Array(body.buffer, body.byteOffset, body.byteLength), offset);
    offset += body.byteLength;
  }
  return out;
}
