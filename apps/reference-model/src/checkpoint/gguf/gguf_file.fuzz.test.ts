import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FormatError } from "@x/kernels";
import type { WrittenValue } from "./architectures/index.js";
import { READABLE } from "./dequantise.js";
import { GgufFile } from "./gguf_file.js";
import { f32Bytes, ggufOf, type TestTensor } from "./test-support.js";

const FILE = "model.gguf";

/** Runs and seed: fixed, unless `FUZZ_RUNS` and `FUZZ_SEED` say otherwise. */
const runs = (n: number): { numRuns: number; seed: number } => ({
  numRuns: Number(process.env["FUZZ_RUNS"] ?? n),
  seed: Number(process.env["FUZZ_SEED"] ?? 1) | 0,
});

/** Reads all of a file: each tensor's numbers, or the FormatError that names the file. Anything else is a failure. */
async function readAll(bytes: Uint8Array): Promise<GgufFile | FormatError> {
  try {
    const file = await GgufFile.parse(FILE, bytes);
    for (const [name, { type, shape }] of file.tensors) {
      expect((await file.bytes(name)).byteLength).toBeLessThanOrEqual(bytes.byteLength);
      if (!READABLE.includes(type.name)) continue;
      expect(await file.numbers(name)).toHaveLength(shape.reduce((a, b) => a * b, 1));
    }
    return file;
  } catch (error) {
    if (!FormatError.isInstance(error)) throw error;
    expect(error.message.startsWith(`${FILE}: `)).toBe(true);
    return error;
  }
}

const refusal = async (bytes: Uint8Array): Promise<string> => {
  const result = await readAll(bytes);
  return result instanceof GgufFile ? `accepted ${[...result.tensors.keys()].join(", ")}` : result.message;
};

const matrix: TestTensor = { name: "w", type: "F32", shape: [2, 3], data: f32Bytes(1, 2, 3, 4, 5, 6) };
const row: TestTensor = { name: "b", type: "F32", shape: [3], data: f32Bytes(7, 8, 9) };
const text = { "general.architecture": { type: "string", value: "llama" } } as const;

/** Little-endian bytes of a file by hand. */
const u32 = (...values: number[]): number[] =>
  values.flatMap((v) => [...new Uint8Array(Uint32Array.of(v).buffer)]);
const u64 = (...values: (number | bigint)[]): number[] =>
  values.flatMap((v) => [...new Uint8Array(BigUint64Array.of(BigInt(v)).buffer)]);
const str = (s: string): number[] => [...u64(s.length), ...Buffer.from(s)];
const magic = [...Buffer.from("GGUF")];
const head = (tensors: number | bigint, pairs: number | bigint): number[] => [
  ...magic,
  ...u32(3),
  ...u64(tensors, pairs),
];
interface Row {
  name?: string;
  dims?: (number | bigint)[];
  type?: number;
  offset?: number | bigint;
}
const tableRow = ({ name = "w", dims = [8], type = 0, offset = 0 }: Row): number[] => [
  ...str(name),
  ...u32(dims.length),
  ...u64(...dims),
  ...u32(type),
  ...u64(offset),
];
/** A file of a table and 64 bytes of data. */
const table = (...rows: Row[]): Uint8Array => {
  const header = [...head(rows.length, 0), ...rows.flatMap(tableRow)];
  return Uint8Array.from([
    ...header,
    ...new Array<number>((32 - (header.length % 32)) % 32).fill(0),
    ...new Array<number>(64).fill(0),
  ]);
};

describe("GGUF files", () => {
  it("what is written is read: every type of value, shapes slowest axis first", async () => {
    const metadata: Record<string, WrittenValue> = {
      ...text,
      u: { type: "u32", value: 7 },
      i: { type: "i32", value: -7 },
      f: { type: "f32", value: 0.5 },
      b: { type: "bool", value: true },
      ss: { type: "strings", value: ["a", "▁é", ""] },
      fs: { type: "f32s", value: [1, -2] },
      is: { type: "i32s", value: [3, -4] },
    };
    const file = (await readAll(await ggufOf(metadata, [matrix, row]))) as GgufFile;
    expect(file).toBeInstanceOf(GgufFile);
    expect(Object.fromEntries(file.metadata)).toEqual(
      Object.fromEntries(Object.entries(metadata).map(([key, { value }]) => [key, value])),
    );
    expect([...file.tensors.keys()]).toEqual(["w", "b"]);
    expect(file.tensor("w").shape).toEqual([2, 3]);
    expect([...(await file.numbers("w"))]).toEqual([1, 2, 3, 4, 5, 6]);
    expect([...(await file.numbers("b"))]).toEqual([7, 8, 9]);
    expect(() => file.tensor("c")).toThrow(/has no tensor "c"/);
  });

  it("is read in pieces: a string longer than one", async () => {
    const long = "x".repeat(3 * 2 ** 20);
    const file = await GgufFile.parse(
      FILE,
      await ggufOf({ long: { type: "string", value: long }, ...text }, [row]),
    );
    expect(file.metadata.get("long")).toBe(long);
    expect(file.metadata.get("general.architecture")).toBe("llama");
  });

  it("version 2 is read, others and big-endian ones are refused by name", async () => {
    const bytes = await ggufOf(text, [row]);
    const withVersion = (...version: number[]): Uint8Array => {
      const out = bytes.slice();
      out.set(version, 4);
      return out;
    };
    expect(await refusal(withVersion(2, 0, 0, 0))).toBe("accepted b");
    expect(await refusal(withVersion(1, 0, 0, 0))).toMatch(/has version 1 of the format; versions 2 and 3/);
    expect(await refusal(withVersion(4, 0, 0, 0))).toMatch(/has version 4/);
    expect(await refusal(withVersion(0, 0, 0, 3))).toMatch(/is a big-endian file/);
  });
});

describe("hostile GGUF files are refused by name and reason", () => {
  const cases: Record<string, [number[] | Uint8Array, RegExp]> = {
    "no bytes": [[], /has 0 bytes/],
    "another format": [[...Buffer.from("PK\u0003\u0004 and more")], /begins with "PK/],
    "too many tensors": [head(2n ** 62n, 0), /the number of tensors is 4611686018427387904/],
    "more tensors than bytes": [head(1000, 0), /a table of 1000 tensors takes 24000 bytes/],
    "more metadata than bytes": [head(0, 2 ** 40), /metadata of 1099511627776 entries takes/],
    "a key beyond the end": [
      [...head(0, 1), ...u64(50), ...u32(0, 0)],
      /key of metadata entry 0 takes 50 bytes/,
    ],
    "a string beyond the end": [
      [...head(0, 1), ...str("k"), ...u32(8), ...u64(2n ** 40n)],
      /metadata "k" takes 1099511627776/,
    ],
    "a key that is no text": [[...head(0, 1), ...u64(2), 0xff, 0xfe, ...u32(0, 0)], /is no UTF-8 text/],
    "a value of an unknown type": [[...head(0, 1), ...str("k"), ...u32(13, 0)], /metadata "k" has type 13/],
    "a truth value of 2": [[...head(0, 1), ...str("k"), ...u32(7), 2, 0, 0], /is 2; a truth value is 0 or 1/],
    "an array longer than the file": [
      [...head(0, 1), ...str("k"), ...u32(9, 4), ...u64(2 ** 33)],
      /metadata "k", an array of 8589934592, takes 34359738368 bytes/,
    ],
    "arrays in arrays in arrays": [
      [
        ...head(0, 1),
        ...str("k"),
        ...u32(9),
        ...Array.from({ length: 9 }, () => [...u32(9), ...u64(1)]).flat(),
        ...u32(0),
        ...u64(0),
      ],
      /nests arrays; at most 4/,
    ],
    "a key twice": [
      [...head(0, 2), ...str("k"), ...u32(0), 1, ...str("k"), ...u32(0), 1, ...u32(0, 0)],
      /metadata "k" is there twice/,
    ],
    "an alignment of 3": [
      [...head(0, 1), ...str("general.alignment"), ...u32(4, 3)],
      /general\.alignment is 3; it must be a power of two/,
    ],
    "a tensor twice": [table({}, { offset: 32 }), /tensor "w" is there twice/],
    "an unknown type of tensor": [table({ type: 99 }), /tensor "w" has type 99; known: 0 \(F32\)/],
    "a type that was given up": [table({ type: 4 }), /tensor "w" has type 4/],
    "five dimensions": [table({ dims: [1, 1, 1, 1, 1] }), /has 5 dimensions; at most 4/],
    "no elements": [table({ dims: [4, 0] }), /\[0, 4\] has no elements/],
    "a product that overflows": [table({ dims: [2 ** 31, 2 ** 31, 4] }), /has too many elements/],
    "rows of half a block": [
      table({ dims: [48, 2], type: 8 }),
      /rows of 48; a row of Q8_0 is a whole number of blocks of 32/,
    ],
    "an offset that is not aligned": [
      table({ offset: 8 }),
      /begins at 8 of the data; it must be a multiple of 32/,
    ],
    "an offset beyond the end": [
      table({ offset: 64 }),
      /takes bytes 64 to 96 of the data, which has 64 \(truncated\?\)/,
    ],
    "an offset that no number holds": [
      table({ offset: 2n ** 63n }),
      /the offset of tensor "w" is 9223372036854775808/,
    ],
    "tensors that overlap": [table({ dims: [16] }, { name: "v", offset: 32 }), /tensor "v" overlaps "w"/],
  };
  for (const [what, [bytes, reason]] of Object.entries(cases))
    it(what, async () => {
      expect(await refusal(Uint8Array.from(bytes))).toMatch(reason);
    });
});

describe("fuzz: GGUF", () => {
  it("raw bytes, with and without a right beginning: read or refused by name, never a crash", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), fc.boolean(), async (bytes, right) => {
        await readAll(right ? Uint8Array.from([...magic, ...u32(3), ...bytes]) : bytes);
      }),
      runs(500),
    );
  });

  it("a right file with bytes changed, cut or put in", async () => {
    const bytes = await ggufOf({ ...text, list: { type: "strings", value: ["a", "b"] } }, [
      matrix,
      row,
      { name: "q", type: "Q8_0", shape: [2, 32], data: new Uint8Array(68) },
    ]);
    const edit = fc.record({
      at: fc.nat({ max: bytes.length - 1 }),
      value: fc.oneof(fc.nat({ max: 255 }), fc.constantFrom(0, 1, 255, 128)),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(edit, { minLength: 1, maxLength: 6 }),
        fc.option(fc.nat({ max: bytes.length }), { nil: undefined }),
        async (edits, cut) => {
          const changed = bytes.slice();
          for (const { at, value } of edits) changed[at] = value;
          await readAll(cut === undefined ? changed : changed.subarray(0, cut));
        },
      ),
      runs(1500),
    );
  });

  it("tables that lie about dimensions, types and offsets", async () => {
    const size = fc.oneof(fc.nat({ max: 300 }), fc.constantFrom(0, 32, 256, 2 ** 32, 2 ** 53, 2n ** 63n));
    const entry = fc.record({
      name: fc.oneof(fc.string({ maxLength: 6, unit: "grapheme-ascii" }), fc.constantFrom("w", "__proto__")),
      dims: fc.array(size, { maxLength: 5 }),
      type: fc.oneof(fc.nat({ max: 45 }), fc.constant(0)),
      offset: fc.oneof(fc.constantFrom(0, 32, 64, 2n ** 63n), fc.nat({ max: 100 })),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(entry, { maxLength: 4 }), async (rows) => {
        await readAll(table(...rows));
      }),
      runs(1000),
    );
  });
});
