import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FormatError } from "./base/errors.js";
import { Safetensors, writeSafetensors, type TensorData } from "./safetensors.js";
import { fuzz } from "./test-support.js";

const FILE = "model.safetensors";

/** A file of a header text, its length as it is or as given, and data. */
function fileOf(header: string, data: Uint8Array, length?: number): Uint8Array {
  const json = new TextEncoder().encode(header);
  const out = new Uint8Array(8 + json.length + data.length);
  new DataView(out.buffer).setBigUint64(0, BigInt.asUintN(64, BigInt(length ?? json.length)), true);
  out.set(json, 8);
  out.set(data, 8 + json.length);
  return out;
}

/** Read all of a file: each tensor's numbers, or the FormatError that names the file. Anything else is a failure. */
async function readAll(bytes: Uint8Array): Promise<Map<string, number> | FormatError> {
  try {
    const file = await Safetensors.parse(FILE, bytes);
    const sizes = new Map<string, number>();
    for (const name of file.names) {
      const { shape, dtype } = file.entry(name);
      expect((await file.bytes(name)).byteLength).toBeLessThanOrEqual(bytes.byteLength);
      if (!/^(F64|F32|F16|BF16|I32|I16|I8|U16|U8|BOOL)$/.test(dtype)) continue;
      const numbers = await file.numbers(name);
      expect(numbers.length).toBe(shape.reduce((a, b) => a * b, 1));
      sizes.set(name, numbers.length);
    }
    return sizes;
  } catch (error) {
    if (!FormatError.isInstance(error)) throw error;
    expect(error.message.startsWith(`${FILE}: `)).toBe(true);
    return error;
  }
}

const refusal = async (bytes: Uint8Array): Promise<string> => {
  const result = await readAll(bytes);
  return result instanceof Map ? `accepted ${[...result.keys()].join(", ")}` : result.message;
};

const dtypes = ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"];
const count = fc.oneof(
  fc.nat({ max: 12 }),
  fc.constantFrom(-1, 0.5, 1e18, Number.MAX_SAFE_INTEGER, 2 ** 53, 1e308, -0, 4294967296),
);
const odd = fc.oneof(fc.jsonValue(), fc.constantFrom(null, "", [], {}, true, "F32", "__proto__"));
const entry = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record(
      {
        dtype: fc.oneof(fc.constantFrom(...dtypes), odd),
        shape: fc.oneof(fc.array(count, { maxLength: 5 }), odd),
        data_offsets: fc.oneof(fc.array(count, { minLength: 1, maxLength: 3 }), odd),
      },
      { requiredKeys: [] },
    ),
  },
  { weight: 1, arbitrary: odd },
);
const header = fc.dictionary(fc.oneof(fc.string(), fc.constantFrom("__metadata__", "__proto__", "w")), entry);

/** A valid file's tensors. */
const tensors: fc.Arbitrary<Record<string, TensorData>> = fc.dictionary(
  fc.string({ minLength: 1 }).filter((name) => name !== "__metadata__"),
  fc.array(fc.nat({ max: 4 }), { maxLength: 3 }).chain((shape) => {
    const n = shape.reduce((a, b) => a * b, 1);
    return fc
      .array(fc.oneof(fc.float(), fc.constantFrom(NaN, Infinity, -Infinity)), { minLength: n, maxLength: n })
      .map((data) => ({ shape, data: Float32Array.from(data) }));
  }),
  { maxKeys: 5 },
);

describe("fuzz: safetensors", () => {
  it("raw bytes: read or refused by name, never a crash", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (bytes) => {
        await readAll(bytes);
      }),
      fuzz(500),
    );
  });

  it("structured headers with lying lengths: read or refused by name", async () => {
    await fc.assert(
      fc.asyncProperty(
        header,
        fc.uint8Array({ maxLength: 64 }),
        fc.option(fc.oneof(fc.integer({ min: -8, max: 300 }), fc.constantFrom(2 ** 31, 2 ** 40, -1)), {
          nil: undefined,
        }),
        async (fields, data, length) => {
          await readAll(fileOf(JSON.stringify(fields), data, length));
        },
      ),
      fuzz(1000),
    );
  });

  it("what is written is read, bit for bit", async () => {
    await fc.assert(
      fc.asyncProperty(tensors, async (given) => {
        const file = await Safetensors.parse(FILE, writeSafetensors(given));
        expect(file.names.sort()).toEqual(Object.keys(given).sort());
        for (const [name, { shape, data }] of Object.entries(given)) {
          expect(file.entry(name).shape).toEqual(shape);
          expect(new Uint32Array((await file.bytes(name)).slice().buffer)).toEqual(
            new Uint32Array(data.buffer),
          );
        }
      }),
      fuzz(200),
    );
  });

  it("real files, mutated: cut, lengthened, bytes changed", async () => {
    await fc.assert(
      fc.asyncProperty(
        tensors,
        fc.array(fc.tuple(fc.nat(), fc.nat({ max: 255 })), { maxLength: 4 }),
        fc.integer({ min: -20, max: 20 }),
        async (given, changes, grow) => {
          const whole = writeSafetensors(given);
          const bytes = new Uint8Array(Math.max(0, whole.length + grow));
          bytes.set(whole.subarray(0, bytes.length));
          for (const [at, value] of changes) if (bytes.length > 0) bytes[at % bytes.length] = value;
          const result = await readAll(bytes);
          // A file that is shorter or longer than it says is never taken.
          if (changes.length === 0 && grow !== 0) expect(result).not.toBeInstanceOf(Map);
        },
      ),
      fuzz(500),
    );
  });
});

describe("safetensors are refused with the tensor and the reason", () => {
  const one = { w: { dtype: "F32", shape: [2], data_offsets: [0, 8] } };
  const cases: Record<string, [Uint8Array, RegExp]> = {
    "an empty file": [new Uint8Array(), /has 0 bytes/],
    "a header longer than the file": [fileOf("{}", new Uint8Array(), 1000), /1000 bytes, but the file has/],
    "a header of 16 EiB": [fileOf("{}", new Uint8Array(), -1), /at most 100000000/],
    "no JSON": [fileOf("{", new Uint8Array()), /no JSON/],
    "no object": [fileOf("[]", new Uint8Array()), /no JSON object/],
    "truncated data": [fileOf(JSON.stringify(one), new Uint8Array(4)), /"w".*outside the 4 bytes.*truncated/],
    "bytes left over": [fileOf(JSON.stringify(one), new Uint8Array(9)), /1 bytes after the last tensor/],
    overlap: [
      fileOf(
        JSON.stringify({ ...one, v: { dtype: "F32", shape: [2], data_offsets: [4, 12] } }),
        new Uint8Array(12),
      ),
      /"v".*overlaps "w"/,
    ],
    "a gap": [
      fileOf(JSON.stringify({ w: { dtype: "F32", shape: [2], data_offsets: [4, 12] } }), new Uint8Array(12)),
      /"w".*gap of 4 bytes/,
    ],
    "a shape that lies": [
      fileOf(JSON.stringify({ w: { dtype: "F32", shape: [3], data_offsets: [0, 8] } }), new Uint8Array(8)),
      /"w".*takes 12 bytes; data_offsets \[0, 8\] hold 8/,
    ],
    "a dtype that lies": [
      fileOf(JSON.stringify({ w: { dtype: "F16", shape: [2], data_offsets: [0, 8] } }), new Uint8Array(8)),
      /"w".*F16 \[2\] takes 4 bytes/,
    ],
    "more elements than there are": [
      fileOf(
        JSON.stringify({ w: { dtype: "F32", shape: [2 ** 40, 2 ** 40], data_offsets: [0, 8] } }),
        new Uint8Array(8),
      ),
      /"w".*too many elements/,
    ],
    "a name twice": [
      fileOf(
        `{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}`,
        new Uint8Array(8),
      ),
      /"w" twice/,
    ],
    "an entry that nests without end": [
      fileOf(`{"w":${"[".repeat(50_000)}${"]".repeat(50_000)}}`, new Uint8Array()),
      /"w".*must be an object/,
    ],
    "an unknown dtype": [
      fileOf(JSON.stringify({ w: { dtype: "F5", shape: [2], data_offsets: [0, 8] } }), new Uint8Array(8)),
      /"w".*dtype is "F5"; it must be one of/,
    ],
    "negative offsets": [
      fileOf(JSON.stringify({ w: { dtype: "F32", shape: [2], data_offsets: [-8, 0] } }), new Uint8Array(8)),
      /"w".*data_offsets are \[-8,0\]/,
    ],
  };
  for (const [what, [bytes, reason]] of Object.entries(cases))
    it(what, async () => {
      expect(await refusal(bytes)).toMatch(reason);
    });
});
