import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import type { Gpu, Tensor } from "@x/kernels";
import { attentionOperators } from "./attention.js";
import { elementwiseOperators } from "./elementwise.js";
import { readOnnx, type OnnxArray, type OnnxCase } from "./format.js";
import { indexingOperators } from "./indexing.js";
import { linearOperators } from "./linear.js";
import { lossOperators } from "./losses.js";
import { NotExpressible, OnnxNode, type OnnxMappings } from "./node.js";
import { normOperators } from "./norms.js";
import { reductionOperators } from "./reductions.js";
import { shapeOperators } from "./shape.js";

/** The mapping of each operator to the public API. */
export const OPERATORS: OnnxMappings = {
  ...attentionOperators,
  ...elementwiseOperators,
  ...indexingOperators,
  ...linearOperators,
  ...lossOperators,
  ...normOperators,
  ...reductionOperators,
  ...shapeOperators,
};

export interface OnnxReport {
  readonly operator: string;
  readonly name: string;
  readonly outcome: "passed" | "failed" | "not expressible";
  /** Largest difference, or why there is none. */
  readonly detail: string;
}

/**
 * How far an element may lie from the expected one: 1e-5 of it and 2e-6; of halves two units of their last place, since
 * ONNX's reference rounds to halves at every step and the library at the end.
 */
export const TOLERANCE = { f32: [1e-5, 2e-6], f16: [2 ** -9, 2 ** -10] } as const;

/** The difference in units of what is allowed; above 1 it is too large. */
function excess(actual: number, expected: number, [relative, absolute]: readonly [number, number]): number {
  if (Object.is(actual, expected) || actual === expected) return 0;
  if (Number.isNaN(actual) && Number.isNaN(expected)) return 0;
  const difference = Math.abs(actual - expected) / (absolute + relative * Math.abs(expected));
  return Number.isNaN(difference) ? Infinity : difference;
}

async function compare(output: string, tensor: Tensor | undefined, expected: OnnxArray): Promise<number> {
  if (!tensor) throw new Error(`output ${output} is missing`);
  if (tensor.shape.length !== expected.shape.length || tensor.shape.some((n, i) => n !== expected.shape[i]))
    throw new Error(
      `output ${output} has shape [${tensor.shape.join(", ")}]; it must be [${expected.shape.join(", ")}]`,
    );
  const values = await tensor.read();
  const bounds = expected.dtype === "F16" ? TOLERANCE.f16 : TOLERANCE.f32;
  const exact = ["I32", "I64", "BOOL", "U8"].includes(expected.dtype);
  let most = 0;
  expected.data.forEach((want, i) => {
    const got = values[i]!;
    most = Math.max(most, exact ? (got === want ? 0 : Infinity) : excess(got, want, bounds));
  });
  return most;
}

/** Run one case by its operator's mapping. */
export async function runOnnxCase(gpu: Gpu, of: OnnxCase): Promise<OnnxReport> {
  const { operator, name } = of;
  const report = (outcome: OnnxReport["outcome"], detail: string): OnnxReport => ({
    operator,
    name,
    outcome,
    detail,
  });
  const mapping = OPERATORS[operator];
  if (!mapping) return report("not expressible", "there is no mapping for this operator");
  const made: Tensor[] = [];
  try {
    const node = new OnnxNode(gpu, of);
    const outputs: (Tensor | undefined)[] = [];
    gpu.scope(() => {
      outputs.push(...mapping(node));
      made.push(...outputs.filter((t) => t !== undefined));
      return [...made];
    });
    const unread = node.unread();
    if (unread.length > 0) return report("not expressible", `nothing corresponds to ${unread.join(", ")}`);
    let most = 0;
    for (const [i, output] of of.outputs.entries())
      if (output !== "") most = Math.max(most, await compare(output, outputs[i], of.expected[output]!));
    return report(most <= 1 ? "passed" : "failed", `${most.toPrecision(2)} of the tolerance`);
  } catch (error) {
    if (error instanceof NotExpressible) return report("not expressible", error.message);
    return report("failed", error instanceof Error ? error.message : String(error));
  } finally {
    for (const tensor of new Set(made)) tensor.dispose();
  }
}

/** Run the cases of a folder of OPERATOR.safetensors whose operator/case holds `filter`. */
export async function* runOnnx(gpu: Gpu, directory: string, filter = ""): AsyncGenerator<OnnxReport> {
  const files = (await readdir(directory)).filter((file) => file.endsWith(".safetensors")).sort();
  for (const file of files)
    for (const of of await readOnnx(join(directory, file)))
      if (`${basename(file, ".safetensors")}/${of.name}`.includes(filter)) yield await runOnnxCase(gpu, of);
}
