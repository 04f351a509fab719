import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { FormatError, fromHalfBits } from "@x/kernels";
import { Safetensors, type SafetensorsDType } from "@x/kernels/safetensors";

/** A stored tensor of a case, as numbers. */
export interface OnnxArray {
  readonly shape: readonly number[];
  readonly dtype: SafetensorsDType;
  readonly data: readonly number[];
}

/** One node: its operator, attributes, and the names of its inputs and outputs, "" where one is left out. */
export interface OnnxCase {
  readonly operator: string;
  readonly name: string;
  readonly opset: number;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly given: Readonly<Record<string, OnnxArray>>;
  readonly expected: Readonly<Record<string, OnnxArray>>;
}

interface Entry {
  readonly opset: Readonly<Record<string, number>>;
  readonly domain: string;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}

/** Every element as a number; 64-bit integers too, since bounds such as the largest one stand for "to the end". */
function decode(dtype: SafetensorsDType, bytes: Uint8Array): number[] {
  const { buffer } = new Uint8Array(bytes);
  switch (dtype) {
    case "F32":
      return [...new Float32Array(buffer)];
    case "F64":
      return [...new Float64Array(buffer)];
    case "F16":
      return Array.from(new Uint16Array(buffer), fromHalfBits);
    case "I32":
      return [...new Int32Array(buffer)];
    case "I64":
      return Array.from(new BigInt64Array(buffer), Number);
    case "U8":
    case "BOOL":
      return [...new Uint8Array(buffer)];
    default:
      throw new FormatError("onnx", `element type ${dtype} is not one of F32, F64, F16, I32, I64, U8, BOOL`);
  }
}

function entries(path: string, text: string | undefined): Record<string, Entry> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text ?? "");
  } catch (cause) {
    throw new FormatError(path, "its metadata must hold `cases` as JSON", { cause });
  }
  if (typeof parsed !== "object" || parsed === null) throw new FormatError(path, "`cases` must be an object");
  return parsed as Record<string, Entry>;
}

/** Read the cases of one operator: OPERATOR.safetensors. @throws FormatError */
export async function readOnnx(path: string): Promise<OnnxCase[]> {
  const file = await Safetensors.parse(path, await readFile(path));
  const operator = basename(path, ".safetensors");
  const cases: OnnxCase[] = [];
  for (const [name, entry] of Object.entries(entries(path, file.header.metadata["cases"]))) {
    const take = async (kind: "in" | "out", names: readonly string[]): Promise<Record<string, OnnxArray>> => {
      const out: Record<string, OnnxArray> = {};
      for (const n of names) {
        if (n === "") continue;
        const key = `${name}/${kind}/${n}`;
        const { shape, dtype } = file.entry(key);
        out[n] = { shape, dtype, data: decode(dtype, await file.bytes(key)) };
      }
      return out;
    };
    const { attributes, inputs, outputs, domain, opset } = entry;
    cases.push({
      operator,
      name,
      opset: opset[domain] ?? 0,
      attributes,
      inputs,
      outputs,
      given: await take("in", inputs),
      expected: await take("out", outputs),
    });
  }
  return cases;
}
