import { Template } from "@huggingface/jinja";
import { FormatError } from "@x/kernels";

/** One turn of a conversation. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string;
}

/** Reads a file beside a model by its name; undefined where there is none. */
export type ReadFile = (name: string) => Promise<string | undefined>;

/** Special tokens that templates write, by their names. */
const TOKENS = ["bos_token", "eos_token", "unk_token", "pad_token"] as const;

type Json = Record<string, unknown>;

const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const reason = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** A file as a JSON object; empty where there is none. @throws FormatError */
async function objectOf(name: string, read: ReadFile): Promise<Json> {
  const text = await read(name);
  if (text === undefined) return {};
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(name, `is not JSON: ${reason(cause)}`, { cause });
  }
  if (!isObject(value)) throw new FormatError(name, "is not a JSON object");
  return value;
}

/** A token is a text, or an object with its text under `content`. */
function tokenOf(value: unknown): string | undefined {
  const text = isObject(value) ? value["content"] : value;
  return typeof text === "string" ? text : undefined;
}

/** The template among several that serves plain conversations: the one named "default". */
function templateOf(value: unknown): string | undefined {
  if (!Array.isArray(value)) return typeof value === "string" ? value : undefined;
  const named = value.filter(isObject).find(({ name }) => name === "default");
  return named && templateOf(named["template"]);
}

/**
 * How a model wants conversations written: a template in Jinja's language, as in `chat_template.jinja` and
 * `tokenizer_config.json` of Hugging Face folders and in GGUF files.
 */
export class ChatTemplate {
  readonly #template: Template;
  readonly #tokens: Readonly<Record<string, string>>;

  /**
   * @param file names the template in errors
   * @throws FormatError for a template that cannot be parsed
   */
  constructor(file: string, source: string, tokens: Readonly<Record<string, string>> = {}) {
    try {
      this.#template = new Template(source);
    } catch (cause) {
      throw new FormatError(file, `holds a chat template that cannot be parsed: ${reason(cause)}`, { cause });
    }
    this.#tokens = tokens;
  }

  /**
   * The conversation as one text, up to where the model's answer begins; special tokens stand in it.
   *
   * @throws FormatError where the template refuses the conversation, such as two turns of the user in a row
   */
  render(messages: readonly ChatMessage[]): string {
    try {
      return this.#template.render({ ...this.#tokens, messages, add_generation_prompt: true });
    } catch (cause) {
      throw new FormatError("chat template", reason(cause), { cause });
    }
  }
}

/**
 * The chat template beside a model, or undefined where it has none. `source` takes its place, with the model's special
 * tokens.
 *
 * @throws FormatError for files and templates that cannot be parsed
 */
export async function loadChatTemplate(
  read: ReadFile,
  source?: { readonly file: string; readonly text: string },
): Promise<ChatTemplate | undefined> {
  const config = await objectOf("tokenizer_config.json", read);
  const map = await objectOf("special_tokens_map.json", read);
  const tokens: Record<string, string> = {};
  for (const name of TOKENS) {
    const token = tokenOf(config[name]) ?? tokenOf(map[name]);
    if (token !== undefined) tokens[name] = token;
  }
  if (source) return new ChatTemplate(source.file, source.text, tokens);
  const own = await read("chat_template.jinja");
  if (own !== undefined) return new ChatTemplate("chat_template.jinja", own, tokens);
  const text = templateOf(config["chat_template"]);
  return text === undefined ? undefined : new ChatTemplate("tokenizer_config.json", text, tokens);
}
