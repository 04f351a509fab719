import { ConfigError } from "@x/kernels";
import { expectObject, Fields } from "../../config/index.js";

/** What adapter_config.json of a PEFT folder says. */
export interface PeftConfig {
  /** Rank of a module's change. */
  rankOf(module: string): number;
  /** Factor of a module's change. */
  scaleOf(module: string): number;
  /** Whether a module, by its name in the model, has a change; undefined where the configuration leaves that open. */
  targets(module: string): boolean | undefined;
  /** Names of modules whose weights are given whole. */
  readonly saved: readonly string[];
  readonly bias: "none" | "all" | "lora_only";
  readonly baseModel: string | undefined;
}

/** Keys that change nothing of what is computed once an adapter is trained. */
const TRAINING = [
  "task_type",
  "base_model_name_or_path",
  "revision",
  "inference_mode",
  "lora_dropout",
  "auto_mapping",
  "peft_version",
  "megatron_core",
  "qalora_group_size",
  "eva_config",
  "runtime_config",
  "ensure_weight_tying",
];
const READ = [
  "peft_type",
  "r",
  "lora_alpha",
  "use_rslora",
  "target_modules",
  "exclude_modules",
  "layers_to_transform",
  "layers_pattern",
  "rank_pattern",
  "alpha_pattern",
  // Factors always lie as [rank, in] and [out, rank]; the family says how its matrices lie.
  "fan_in_fan_out",
  "modules_to_save",
  "bias",
  "init_lora_weights",
];
/** Initial factors that leave the base model's weights as they were. */
const INITIAL = [true, false, "gaussian", "orthogonal", "eva"];

const empty = (value: unknown): boolean =>
  value === undefined ||
  value === null ||
  value === false ||
  (typeof value === "object" && Object.keys(value).length === 0);

/** A regular expression of Python for the whole of a module's name. @throws ConfigError */
function pattern(file: string, key: string, text: string, around: (body: string) => string): RegExp {
  try {
    // Python names groups with (?P<name>.
    return new RegExp(around(text.replaceAll("(?P<", "(?<")));
  } catch (cause) {
    throw new ConfigError(file, `${key} holds ${JSON.stringify(text)}, which is not a regular expression`, {
      cause,
    });
  }
}

/** Numbers by a regular expression of the module's name or its end. */
function byModule(fields: Fields, file: string, key: string): readonly (readonly [RegExp, number])[] {
  const given = fields.get(key);
  if (given === undefined) return [];
  return Object.entries(expectObject(`${file}: ${key}`, given)).map(([name, value]) => {
    if (typeof value !== "number" || !Number.isFinite(value) || value <= 0)
      fields.fail(
        key,
        `has ${JSON.stringify(value)} for ${JSON.stringify(name)}; it must be a positive number`,
      );
    return [pattern(file, key, name, (body) => `^(?:.*\\.)?(?:${body})$`), value] as const;
  });
}

const ends = (module: string, name: string): boolean => module === name || module.endsWith(`.${name}`);

function listOf(fields: Fields, key: string): readonly string[] {
  const given = fields.get(key);
  if (given === undefined) return [];
  if (!Array.isArray(given) || !given.every((name) => typeof name === "string"))
    return fields.fail(key, "must be a list of names of modules");
  return given;
}

/** A rule of names: a list of ends of names, or a regular expression of whole names. */
function ruleOf(fields: Fields, file: string, key: string): ((module: string) => boolean) | undefined {
  const given = fields.get(key);
  if (given === undefined) return undefined;
  if (typeof given === "string") {
    const whole = pattern(file, key, given, (body) => `^(?:${body})$`);
    return (module) => whole.test(module);
  }
  const names = listOf(fields, key);
  return (module) => names.some((name) => ends(module, name));
}

/** Which modules lie in the layers that `layers_to_transform` names; the list of layers is the last one of a name. */
function layerRule(fields: Fields, file: string): ((module: string) => boolean) | undefined {
  const given = fields.get("layers_to_transform");
  if (given === undefined) return undefined;
  const layers = typeof given === "number" ? [given] : given;
  if (!Array.isArray(layers) || !layers.every((n) => Number.isInteger(n)))
    return fields.fail("layers_to_transform", "must be a number or a list of numbers of layers");
  const key = "layers_pattern";
  const names = typeof fields.get(key) === "string" ? [fields.text(key)] : listOf(fields, key);
  const lists = (names.length > 0 ? names : ["[^.]*"]).map((name) =>
    pattern(file, key, name, (body) => `^.*\\.(?:${body})\\.(\\d+)\\.`),
  );
  return (module) =>
    lists.some((list) => (layers as number[]).includes(Number(list.exec(module)?.[1] ?? -1)));
}

/** @throws ConfigError naming a key whose meaning is not computed here */
function refuseOthers(file: string, json: Readonly<Record<string, unknown>>): void {
  const initial = json["init_lora_weights"] ?? true;
  if (!INITIAL.includes(initial as string))
    throw new ConfigError(
      file,
      `init_lora_weights is ${JSON.stringify(initial)}, which changes the base model's weights; ${INITIAL.map((x) => JSON.stringify(x)).join(", ")} are read`,
    );
  for (const [key, value] of Object.entries(json))
    if (!empty(value) && !READ.includes(key) && !TRAINING.includes(key))
      throw new ConfigError(
        file,
        `${key} is ${JSON.stringify(value).slice(0, 80)}; adapters with it are not read`,
      );
}

/**
 * Reads adapter_config.json of a LoRA (Hu et al. 2021, arXiv:2106.09685) as PEFT writes it: the change of a module is
 * scale B A with scale = alpha / r, or alpha / sqrt(r) with `use_rslora` (arXiv:2312.03732).
 *
 * @throws ConfigError for another kind of adapter, and for keys whose meaning is not computed here, by their names
 */
export function peftConfig(file: string, given: unknown): PeftConfig {
  const json = expectObject(file, given);
  const present = Object.fromEntries(Object.entries(json).filter(([, value]) => value !== null));
  const fields = new Fields(file, present);
  if (present["peft_type"] !== "LORA")
    fields.fail("peft_type", `is ${JSON.stringify(json["peft_type"])}; "LORA" is read`);
  refuseOthers(file, present);
  const rank = fields.integer("r", 8, 1);
  const alpha = fields.number("lora_alpha", 8);
  const root = fields.flag("use_rslora", false);
  fields.flag("fan_in_fan_out", false);
  const bias = present["bias"] ?? "none";
  if (bias !== "none" && bias !== "all" && bias !== "lora_only")
    fields.fail("bias", `is ${JSON.stringify(bias)}; it must be none, all or lora_only`);
  const ranks = byModule(fields, file, "rank_pattern");
  const alphas = byModule(fields, file, "alpha_pattern");
  const of = (list: typeof ranks, module: string, otherwise: number): number =>
    list.find(([name]) => name.test(module))?.[1] ?? otherwise;
  const open = present["target_modules"] === "all-linear" || present["target_modules"] === undefined;
  const target = open ? undefined : ruleOf(fields, file, "target_modules");
  const excluded = ruleOf(fields, file, "exclude_modules");
  const inLayers = layerRule(fields, file);
  const base = present["base_model_name_or_path"];
  return {
    rankOf: (module) => of(ranks, module, rank),
    scaleOf: (module) => {
      const r = of(ranks, module, rank);
      return of(alphas, module, alpha) / (root ? Math.sqrt(r) : r);
    },
    targets: (module) => {
      if (excluded?.(module) || inLayers?.(module) === false) return false;
      return target?.(module);
    },
    saved: listOf(fields, "modules_to_save"),
    bias: bias as PeftConfig["bias"],
    baseModel: typeof base === "string" ? base : undefined,
  };
}
