import { describe, expect, it } from "vitest";
import { FormatError } from "./base/errors.js";
import { Safetensors, writeSafetensors } from "./safetensors.js";

const FILE = "model.safetensors";

/** A file of a header's text and data. */
function fileOf(header: string, data: Uint8Array = new Uint8Array()): Uint8Array {
  const json = new TextEncoder().encode(header);
  const out = new Uint8Array(8 + json.length + data.length);
  new DataView(out.buffer).setUint32(0, json.length, true);
  out.set(json, 8);
  out.set(data, 8 + json.length);
  return out;
}
const F32 = new Uint8Array(new Float32Array([1, 2]).buffer);
const W = '"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}';

describe("safetensors: what the format's library takes is taken", () => {
  it.each([
    ["metadata that is null", `{"__metadata__":null,${W}}`],
    ["metadata without entries", `{"__metadata__":{},${W}}`],
    ["white space around", `  {${W}}  \n `],
    [
      "keys of an entry that are not known",
      `{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"note":1}}`,
    ],
    ["an escaped name", `{"\\u0077":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`],
  ])("%s", async (_, header) => {
    const file = await Safetensors.parse(FILE, fileOf(header, F32));
    expect(file.header.metadata).toEqual({});
    expect([...(await file.numbers("w"))]).toEqual([1, 2]);
  });

  it("tensors of other types beside the one that is read; only reading them as numbers is an error", async () => {
    const others = { F8_E4M3: 8, F8_E5M2: 8, F8_E8M0: 8, F4: 4, F6_E2M3: 6, C64: 64, U32: 32, U64: 64 };
    for (const [dtype, bits] of Object.entries(others)) {
      const bytes = bits; // eight elements
      const header = `{${W},"q":{"dtype":"${dtype}","shape":[8],"data_offsets":[8,${8 + bytes}]}}`;
      const data = new Uint8Array(8 + bytes);
      data.set(F32);
      const file = await Safetensors.parse(FILE, fileOf(header, data));
      expect([...(await file.numbers("w"))]).toEqual([1, 2]);
      expect((await file.bytes("q")).byteLength).toBe(bytes);
      await expect(file.numbers("q")).rejects.toThrow(
        new RegExp(`tensor "q": its dtype ${dtype} cannot be read`),
      );
    }
  });
});

describe("safetensors: what the format forbids is refused", () => {
  it.each([
    ["metadata that is text", `{"__metadata__":"x",${W}}`, /map names to strings/],
    ["metadata with null", `{"__metadata__":{"a":null},${W}}`, /map names to strings/],
    ["metadata that is a list", `{"__metadata__":[],${W}}`, /map names to strings/],
    ["a tensor that is null", `{"w":null}`, /its entry is null/],
    ["a byte order mark", `\ufeff{${W}}`, /no JSON/],
    ["a dtype in lower case", `{"w":{"dtype":"f32","shape":[2],"data_offsets":[0,8]}}`, /dtype is "f32"/],
    ["half bytes", `{"w":{"dtype":"F4","shape":[3],"data_offsets":[0,8]}}`, /does not fill whole bytes/],
    ["a size that lies", `{"w":{"dtype":"F8_E4M3","shape":[9],"data_offsets":[0,8]}}`, /takes 9 bytes/],
  ])("%s", async (_, header, reason) => {
    const open = Safetensors.parse(FILE, fileOf(header, F32));
    await expect(open).rejects.toThrow(reason);
    await expect(open).rejects.toSatisfy((error) => FormatError.isInstance(error));
  });

  it("by the writer: other types of data, and names of types that it would mislabel", () => {
    const write = writeSafetensors as unknown as (tensors: object) => never;
    const data = new Float32Array(2);
    expect(() => write({ w: { shape: [2], data, dtype: "F64" } })).toThrow(/"w": dtype is "F64"/);
    expect(() => write({ w: { shape: [2], data: [1, 2] } })).toThrow(/"w": its data must be a Float32Array/);
    expect(() => write({ w: { shape: [1], data: new Float64Array(1) } })).toThrow(FormatError);
  });
});
