import { FormatError } from "@x/kernels";
import {
  encoderDecoderConfig,
  isEncoderDecoder,
  modelConfig,
  tensorNames,
  type Reading,
} from "../families/index.js";
import { blocksName } from "./blocks.js";
import { publish } from "./files.js";
import { jsonText } from "./json.js";
import { arranged, BESIDE, isMultiplied } from "./names.js";
import { BLOCK, quantised, QUANTS, type Quants } from "./quantised.js";
import { WEIGHTS } from "./save.js";
import type { ModelSource, StoredTensor } from "./stored.js";
import { TENSOR_TYPES, typeNumber } from "./gguf/tensor_types.js";
import { safetensorsBytes, type PendingTensor } from "./write_safetensors.js";

/** What transformers finds in config.json, so that it refuses the folder and does not make weights up. */
const METHOD = "ggml";

/** Whether products alone read a tensor. */
const multiplied = ({ targets }: Reading): boolean => targets.every(({ name }) => isMultiplied(name));

/** A tensor as it is: halves of products stay halves, and all else is f32. */
function exact(tensor: StoredTensor, reading: Reading): PendingTensor {
  const { type, shape, bytes } = tensor;
  if (bytes && multiplied(reading) && (type === "F16" || type === "BF16"))
    return { dtype: type, shape, bytes };
  return {
    dtype: "F32",
    shape,
    bytes: async () => {
      const { buffer, byteOffset, byteLength } = await tensor.floats();
      return new Uint8Array(buffer, byteOffset, byteLength);
    },
  };
}

/** A matrix in blocks; undefined where the model reads more of it than products do, or its rows are no whole blocks. */
function inBlocks(
  name: string,
  tensor: StoredTensor,
  reading: Reading,
  type: "Q8_0" | "Q4_0",
): readonly [string, PendingTensor] | undefined {
  const swap = reading.transposed ?? false;
  const shape = swap ? [...tensor.shape.slice(0, -2), ...tensor.shape.slice(-2).reverse()] : tensor.shape;
  const columns = shape.at(-1) ?? 0;
  if (shape.length < 2 || columns % BLOCK !== 0 || !multiplied(reading)) return undefined;
  const { bytes: blockBytes } = TENSOR_TYPES.get(typeNumber(type))!;
  const bytes = async (): Promise<Uint8Array> => {
    const laid = { data: await tensor.floats(), shape: tensor.shape };
    const { data } = arranged(laid, swap ? { transposed: true } : {});
    return quantised(name, data as Float32Array, type);
  };
  return [
    blocksName(name, type, swap),
    { dtype: "U8", shape: [...shape.slice(0, -1), (columns / BLOCK) * blockBytes], bytes },
  ];
}

/**
 * Write a model as a folder whose matrices are in blocks of GGUF (`withBlocks` says how they lie), tensor by tensor: no
 * more than one of them is in memory. Norms, biases and all that is no product's matrix stay as they are; with four bits
 * the matrix of the logits has eight.
 *
 * @throws ConfigError for a configuration that is not read, or numbers that blocks cannot hold; FormatError
 */
export async function saveQuantised(folder: string, source: ModelSource, wanted: Quants): Promise<void> {
  const json = await source.config();
  const { tieEmbeddings } = isEncoderDecoder(json, source.configFile)
    ? encoderDecoderConfig(json, source.configFile).decoder
    : modelConfig(json, source.configFile);
  const head = tieEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  const opened = await source.open();
  try {
    const read = tensorNames(json, source.configFile).reader([...opened.tensors.keys()]);
    const tensors = new Map<string, PendingTensor>();
    for (const [name, tensor] of opened.tensors) {
      const reading = read(name);
      // What no weight is, such as a mask, is computed by every model.
      if (!reading || !tensor.readable) continue;
      const type = QUANTS[reading.targets.some((target) => target.name === head) ? "q8" : wanted];
      const blocks = inBlocks(name, tensor, reading, type);
      tensors.set(...(blocks ?? [name, exact(tensor, reading)]));
    }
    if (![...tensors.keys()].some((name) => tensors.get(name)!.dtype === "U8"))
      throw new FormatError(source.path, `has no matrix whose rows are multiples of ${BLOCK} numbers`);
    const files = await source.files();
    await publish(
      folder,
      async (write) => {
        await write("model.safetensors", safetensorsBytes(tensors));
        const quantization = { quant_method: METHOD, type: QUANTS[wanted].toLowerCase() };
        await write("config.json", `${jsonText({ ...json, quantization_config: quantization })}\n`);
        for (const name of files) await write(name, (await source.file(name)) ?? "");
      },
      (name) => WEIGHTS.test(name) || BESIDE.test(name),
    );
  } finally {
    await opened.close();
  }
}
