/** Names in checkpoints of the Llama, Mistral, Mixtral and Qwen families. */

/** Files beside weights and configuration: the tokenizer's, and what generation takes. */
export const BESIDE =
  /^(tokenizer.*|vocab|special_tokens_map|added_tokens|generation_config|chat_template)\.json$|^(merges|vocab)\.txt$|^chat_template\.jinja$|\.(model|tiktoken)$/;

/** What some checkpoints hold though the model computes it. */
export const COMPUTED = /(^|\.)rotary_emb\.inv_freq$/;

const EXPERT = /^(.*\.experts)\.(\d+)\.(w1|w2|w3|gate_proj|up_proj|down_proj)\.weight$/;
const STACK = /^(.*\.experts)\.(gate_proj|up_proj|down_proj)$/;
/** Mixtral's names of an expert's matrices. */
const MIXTRAL: Readonly<Record<string, string>> = { w1: "gate_proj", w3: "up_proj", w2: "down_proj" };
const TO_MIXTRAL = Object.fromEntries(Object.entries(MIXTRAL).map(([w, name]) => [name, w]));

/** The stack of which a checkpoint's tensor is one expert's matrix, and the expert's index. */
export function expertTensor(name: string): { stack: string; index: number } | undefined {
  const match = EXPERT.exec(name);
  if (!match) return undefined;
  const [, experts = "", index, matrix = ""] = match;
  return { stack: `${experts}.${MIXTRAL[matrix] ?? matrix}`, index: Number(index) };
}

/** The name of each expert's matrix of a stack, or undefined for a tensor that is not a stack. */
export function expertName(stack: string): ((index: number) => string) | undefined {
  const match = STACK.exec(stack);
  if (!match) return undefined;
  const [, experts = "", matrix = ""] = match;
  const name = experts.endsWith("block_sparse_moe.experts") ? TO_MIXTRAL[matrix]! : matrix;
  return (index) => `${experts}.${index}.${name}.weight`;
}

const HEAD = /(?:^|\.)lm_head\.weight$/;
/** What stands before the names of the model's own tensors: "model." in most checkpoints. */
const WRAPPER = /^((?:[A-Za-z_]\w*\.)*?)(?:embed_tokens\.weight$|layers\.\d+\.)/;

/**
 * The names that the model has for a checkpoint's tensors: those of a bare decoder ("layers.0..") and of one inside
 * another module ("transformer.", "language_model.model.") begin with "model." here.
 */
export function modelNames(names: readonly string[]): (name: string) => string {
  const found = names.flatMap((name) => {
    const match = WRAPPER.exec(name);
    return match ? [{ wrapper: match[1]!, embeds: name.endsWith("embed_tokens.weight") }] : [];
  });
  const wrapper = (found.find(({ embeds }) => embeds) ?? found[0])?.wrapper ?? "model.";
  if (wrapper === "model.") return (name) => name;
  return (name) => {
    if (HEAD.test(name)) return "lm_head.weight";
    return name.startsWith(wrapper) ? `model.${name.slice(wrapper.length)}` : name;
  };
}
