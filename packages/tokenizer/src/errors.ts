const BRAND = Symbol.for("x.tokenizer.error");

/** A tokenizer file or an argument that cannot be used; the message names the file, the field and the reason. */
export class TokenizerError extends Error {
  readonly source: string;

  constructor(source: string, message: string, options?: ErrorOptions) {
    super(`${source}: ${message}`, options);
    this.name = "TokenizerError";
    this.source = source;
    Object.defineProperty(this, BRAND, { value: true });
  }

  static isInstance(value: unknown): value is TokenizerError {
    return typeof value === "object" && value !== null && BRAND in value;
  }
}

/** A file that may be right, but asks for a step that this package does not do itself; another reader may do it. */
export class UnsupportedStepError extends TokenizerError {}
