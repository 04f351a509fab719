import { DTypeError } from "../base/errors.js";
import { encode, isStoredType, toBfloat16Bits, type DType } from "../base/dtype.js";
import { pack } from "./pack.js";
import { quantize } from "./quantize.js";

/** Numbers as the bytes of a buffer of a dtype; stored forms are rounded to. @throws ConfigError, ShapeError, DTypeError */
export function encodeAs(who: string, data: ArrayLike<number>, dtype: DType): Uint8Array<ArrayBuffer> {
  if (!isStoredType(dtype)) return encode(who, data, dtype);
  if (dtype === "q8_0" || dtype === "q4_0") return pack(dtype, quantize(data, dtype), data.length);
  if (dtype !== "bf16")
    throw new DTypeError(
      who,
      `dtype is ${dtype}, which numbers are not rounded to; gpu.fromBytes takes its blocks (quantize writes q8_0 and q4_0)`,
    );
  encode(who, data, "f32");
  const halves = new Uint16Array(data.length + (data.length & 1));
  for (let i = 0; i < data.length; i++) halves[i] = toBfloat16Bits(data[i]!);
  return new Uint8Array(halves.buffer);
}
