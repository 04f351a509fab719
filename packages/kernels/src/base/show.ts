/** The mark of a tensor, of any loaded copy of the package. */
export const TENSOR_BRAND: unique symbol = Symbol.for("x.kernels.tensor") as never;

/** What was given, in words. */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
  if (typeof value === "function") return "a function";
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value !== "object" || value === null) return String(value);
  if (Array.isArray(value) && value.length === 2 && value.every((entry) => typeof entry === "number"))
    return `[${value.join(", ")}]`;
  if (Array.isArray(value) || ArrayBuffer.isView(value)) return "an array";
  if (value instanceof ArrayBuffer) return "an ArrayBuffer";
  return TENSOR_BRAND in value ? "a tensor" : "an object";
}
