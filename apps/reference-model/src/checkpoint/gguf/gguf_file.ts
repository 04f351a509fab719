/**
 * The GGUF format: magic, version, counts, metadata, a table of tensors, then their numbers, each at a multiple of
 * `general.alignment` from where the data begins. The reader trusts nothing: counts, lengths, names, types, shapes and
 * offsets are checked before a byte is used.
 *
 * `@huggingface/gguf` reads the same from an address or a path, but neither from other sources nor with checks of
 * what the tensor table says.
 */
import { FormatError } from "@x/kernels";
import type { ByteSource } from "@x/kernels/safetensors";
import { Cursor } from "./cursor.js";
import { dequantise } from "./dequantise.js";
import { TENSOR_TYPES, type TensorType } from "./tensor_types.js";

/** A value of the metadata; 64-bit integers that a number does not hold are bigints. */
export type MetadataValue = number | bigint | boolean | string | readonly MetadataValue[];
export type Metadata = ReadonlyMap<string, MetadataValue>;

/** One tensor of a file. */
export interface GgufTensor {
  readonly type: TensorType;
  /** Slowest axis first: a matrix is [out, in]. */
  readonly shape: readonly number[];
  /** First byte in the file, and the one behind the last. */
  readonly begin: number;
  readonly end: number;
}

const MAGIC = "GGUF";
const VERSIONS = [2, 3];
/** A vocabulary of 256,000 tokens with its merges takes about 15 MB. */
const MAX_HEADER = 200_000_000;
const MAX_DIMENSIONS = 4;
const MAX_ARRAY_DEPTH = 4;
const DEFAULT_ALIGNMENT = 32;
/** Fewest bytes of an entry: a key's length, its type and a value; a name's length, dimensions, type and offset. */
const LEAST_PAIR = 13;
const LEAST_TENSOR = 24;

const STRING = 8;
const ARRAY = 9;

interface Scalar {
  readonly bytes: number;
  readonly read: (view: DataView, at: number) => MetadataValue | undefined;
}

const whole = (value: bigint): number | bigint =>
  value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER)
    ? Number(value)
    : value;

/** The types of values by their number in a file; undefined is no value of the type. */
const SCALARS: ReadonlyMap<number, Scalar> = new Map<number, Scalar>([
  [0, { bytes: 1, read: (view, at) => view.getUint8(at) }],
  [1, { bytes: 1, read: (view, at) => view.getInt8(at) }],
  [2, { bytes: 2, read: (view, at) => view.getUint16(at, true) }],
  [3, { bytes: 2, read: (view, at) => view.getInt16(at, true) }],
  [4, { bytes: 4, read: (view, at) => view.getUint32(at, true) }],
  [5, { bytes: 4, read: (view, at) => view.getInt32(at, true) }],
  [6, { bytes: 4, read: (view, at) => view.getFloat32(at, true) }],
  [7, { bytes: 1, read: (view, at) => [false, true][view.getUint8(at)] }],
  [10, { bytes: 8, read: (view, at) => whole(view.getBigUint64(at, true)) }],
  [11, { bytes: 8, read: (view, at) => whole(view.getBigInt64(at, true)) }],
  [12, { bytes: 8, read: (view, at) => view.getFloat64(at, true) }],
]);

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
/** Tokens of a vocabulary may be bytes that are no text. */
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });

const quote = (text: string): string => JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}..` : text);

async function name(cursor: Cursor, what: string): Promise<string> {
  const bytes = await cursor.string(what);
  try {
    return strict.decode(bytes);
  } catch {
    return cursor.fail(`${what} is no UTF-8 text`);
  }
}

async function scalar(cursor: Cursor, { bytes, read }: Scalar, what: string): Promise<MetadataValue> {
  if (!cursor.holds(bytes)) await cursor.fill(bytes, what);
  const { view, at } = cursor.take(bytes);
  return read(view, at) ?? cursor.fail(`${what} is ${view.getUint8(at)}; a truth value is 0 or 1`);
}

async function value(cursor: Cursor, type: number, what: string, depth: number): Promise<MetadataValue> {
  if (type === STRING) return lenient.decode(await cursor.string(what));
  const kind = SCALARS.get(type);
  if (kind) return scalar(cursor, kind, what);
  if (type !== ARRAY) return cursor.fail(`${what} has type ${type}; it must be 0 to 12`);
  if (depth === MAX_ARRAY_DEPTH)
    return cursor.fail(`${what} nests arrays; at most ${MAX_ARRAY_DEPTH} in each other are read`);
  const inner = await cursor.u32(what);
  const count = await cursor.count(`the length of ${what}`);
  const least = SCALARS.get(inner)?.bytes ?? (inner === STRING ? 8 : 12);
  cursor.expect(count * least, `${what}, an array of ${count},`);
  const out: MetadataValue[] = [];
  for (let i = 0; i < count; i++) out.push(await value(cursor, inner, what, depth + 1));
  return out;
}

async function readMetadata(cursor: Cursor, count: number): Promise<Metadata> {
  cursor.expect(count * LEAST_PAIR, `metadata of ${count} entries`);
  const out = new Map<string, MetadataValue>();
  for (let i = 0; i < count; i++) {
    const key = await name(cursor, `the key of metadata entry ${i}`);
    const what = `metadata ${quote(key)}`;
    if (out.has(key)) cursor.fail(`${what} is there twice`);
    out.set(key, await value(cursor, await cursor.u32(what), what, 0));
  }
  return out;
}

interface TableRow extends Omit<GgufTensor, "begin" | "end"> {
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
}

async function readRow(cursor: Cursor, index: number): Promise<TableRow> {
  const tensor = await name(cursor, `the name of tensor ${index}`);
  const what = `tensor ${quote(tensor)}`;
  const rank = await cursor.u32(what);
  if (rank > MAX_DIMENSIONS)
    cursor.fail(`${what} has ${rank} dimensions; at most ${MAX_DIMENSIONS} are read`);
  const dims: number[] = [];
  for (let axis = 0; axis < rank; axis++) dims.push(await cursor.count(`a dimension of ${what}`));
  const number = await cursor.u32(what);
  const offset = await cursor.count(`the offset of ${what}`);
  const type = TENSOR_TYPES.get(number);
  if (!type)
    return cursor.fail(
      `${what} has type ${number}; known: ${[...TENSOR_TYPES].map(([n, t]) => `${n} (${t.name})`).join(", ")}`,
    );
  const row = dims[0] ?? 1;
  if (row % type.values !== 0)
    cursor.fail(
      `${what} has rows of ${row}; a row of ${type.name} is a whole number of blocks of ${type.values}`,
    );
  if (dims.includes(0)) cursor.fail(`${what}: [${dims.toReversed().join(", ")}] has no elements`);
  const elements = dims.reduce((a, b) => a * b, 1);
  const bytes = (elements / type.values) * type.bytes;
  if (!Number.isSafeInteger(elements) || !Number.isSafeInteger(bytes))
    cursor.fail(`${what}: [${dims.toReversed().join(", ")}] has too many elements`);
  return { name: tensor, type, shape: dims.toReversed(), offset, bytes };
}

/** Where the tensors lie in the file, after checks of their offsets. */
function place(cursor: Cursor, rows: readonly TableRow[], alignment: number): Map<string, GgufTensor> {
  const dataBegin = Math.ceil(cursor.at / alignment) * alignment;
  const dataSize = Math.max(0, cursor.size - dataBegin);
  let last: TableRow | undefined;
  const placed = new Map<string, GgufTensor>();
  for (const row of rows.toSorted((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    const what = `tensor ${quote(row.name)}`;
    if (row.offset % alignment !== 0)
      cursor.fail(`${what} begins at ${row.offset} of the data; it must be a multiple of ${alignment}`);
    if (row.offset + row.bytes > dataSize)
      cursor.fail(
        `${what} takes bytes ${row.offset} to ${row.offset + row.bytes} of the data, which has ${dataSize} (truncated?)`,
      );
    if (last && row.offset < last.offset + last.bytes) cursor.fail(`${what} overlaps ${quote(last.name)}`);
    const begin = dataBegin + row.offset;
    placed.set(row.name, { type: row.type, shape: row.shape, begin, end: begin + row.bytes });
    if (row.bytes > 0) last = row;
  }
  // In the order of the table.
  return new Map(rows.map((row) => [row.name, placed.get(row.name)!]));
}

async function readVersion(cursor: Cursor): Promise<number> {
  if (cursor.size < 4) cursor.fail(`has ${cursor.size} bytes; a GGUF file begins with ${MAGIC}`);
  await cursor.fill(4, "the magic");
  const magic = String.fromCharCode(...cursor.take(4).bytes);
  if (magic !== MAGIC) cursor.fail(`begins with ${quote(magic)}; a GGUF file begins with ${MAGIC}`);
  const version = await cursor.u32("the version");
  if (version > 0xffff)
    cursor.fail("is a big-endian file; little-endian ones are read, which its converter writes too");
  if (!VERSIONS.includes(version))
    cursor.fail(`has version ${version} of the format; versions ${VERSIONS.join(" and ")} are read`);
  return version;
}

function readAlignment(cursor: Cursor, metadata: Metadata): number {
  const alignment = metadata.get("general.alignment") ?? DEFAULT_ALIGNMENT;
  if (
    typeof alignment !== "number" ||
    !(alignment >= 1) ||
    alignment > 2 ** 30 ||
    !Number.isInteger(Math.log2(alignment))
  )
    return cursor.fail(`general.alignment is ${String(alignment)}; it must be a power of two`);
  return alignment;
}

/** An open file: its header is checked; tensors are read one by one. */
export class GgufFile {
  readonly file: string;
  readonly version: number;
  readonly metadata: Metadata;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  readonly #source: ByteSource;

  private constructor(
    file: string,
    source: ByteSource,
    header: Pick<GgufFile, "version" | "metadata" | "tensors">,
  ) {
    this.file = file;
    this.#source = source;
    this.version = header.version;
    this.metadata = header.metadata;
    this.tensors = header.tensors;
  }

  /** @throws FormatError naming the file, the key or tensor and the reason. */
  static async open(file: string, source: ByteSource): Promise<GgufFile> {
    const cursor = new Cursor(file, source, MAX_HEADER);
    const version = await readVersion(cursor);
    const tensorCount = await cursor.count("the number of tensors");
    const metadata = await readMetadata(cursor, await cursor.count("the number of metadata entries"));
    cursor.expect(tensorCount * LEAST_TENSOR, `a table of ${tensorCount} tensors`);
    const names = new Set<string>();
    const rows: TableRow[] = [];
    for (let i = 0; i < tensorCount; i++) {
      const row = await readRow(cursor, i);
      if (names.has(row.name)) cursor.fail(`tensor ${quote(row.name)} is there twice`);
      names.add(row.name);
      rows.push(row);
    }
    const tensors = place(cursor, rows, readAlignment(cursor, metadata));
    return new GgufFile(file, source, { version, metadata, tensors });
  }

  /** A file that is in memory. */
  static parse(file: string, bytes: Uint8Array): Promise<GgufFile> {
    return GgufFile.open(file, {
      size: bytes.byteLength,
      read: (begin, end) => Promise.resolve(bytes.subarray(begin, end)),
    });
  }

  tensor(name: string): GgufTensor {
    const tensor = this.tensors.get(name);
    if (!tensor) throw new FormatError(this.file, `has no tensor ${quote(name)}`);
    return tensor;
  }

  /** The tensor's bytes as they are stored. */
  async bytes(name: string): Promise<Uint8Array> {
    const { begin, end } = this.tensor(name);
    return this.#read(name, begin, end);
  }

  async #read(name: string, begin: number, end: number): Promise<Uint8Array> {
    const bytes = await this.#source.read(begin, end);
    if (bytes.byteLength !== end - begin)
      throw new FormatError(this.file, `tensor ${quote(name)}: the file ended early`);
    return bytes;
  }

  /** The bytes of part `index` of `count` equal ones along the slowest axis. */
  async part(name: string, index: number, count: number): Promise<Uint8Array> {
    const { begin, end } = this.tensor(name);
    const size = (end - begin) / count;
    return this.#read(name, begin + index * size, begin + (index + 1) * size);
  }

  /** The tensor's numbers. @throws FormatError for a type that is not read */
  async numbers(name: string): Promise<Float32Array> {
    const { type } = this.tensor(name);
    return dequantise(this.file, name, type, await this.bytes(name));
  }
}
