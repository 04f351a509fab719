import { show } from "./arguments.js";
import { TokenizerError, UnsupportedStepError } from "./errors.js";

export type Json = Readonly<Record<string, unknown>>;

export function isRecord(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Reads fields of a parsed file and says where something is wrong. */
export class JsonReader {
  readonly file: string;
  constructor(file: string) {
    this.file = file;
  }
  fail(where: string, message: string): never {
    throw new TokenizerError(this.file, `${where} ${message}`);
  }
  /** A step whose type is not among those that are read here. */
  unsupported(where: string, type: string): never {
    throw new UnsupportedStepError(
      this.file,
      `${where} is ${JSON.stringify(type)}; it is not supported here`,
    );
  }
  object(where: string, value: unknown): Json {
    return isRecord(value) ? value : this.fail(where, `is ${show(value)}; it must be an object`);
  }
  array(where: string, value: unknown): readonly unknown[] {
    return Array.isArray(value)
      ? (value as unknown[])
      : this.fail(where, `is ${show(value)}; it must be a list`);
  }
  string(where: string, value: unknown): string {
    return typeof value === "string" ? value : this.fail(where, `is ${show(value)}; it must be a string`);
  }
  flag(where: string, value: unknown, otherwise: boolean): boolean {
    if (value === undefined || value === null) return otherwise;
    return typeof value === "boolean"
      ? value
      : this.fail(where, `is ${show(value)}; it must be true or false`);
  }
}
