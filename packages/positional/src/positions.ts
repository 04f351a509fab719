import { ConfigError, expectDType, expectShape, integer, tensor, value, type Tensor } from "@x/kernels";

/** Whether a value is an array or typed array of numbers. */
const isNumberList = (given: unknown): given is ArrayLike<number> =>
  (Array.isArray(given) || (ArrayBuffer.isView(given) && !(given instanceof DataView))) &&
  Array.prototype.every.call(given, (one) => typeof one === "number");

/** The options of a call that say where its tokens stand: at most one of the three. */
export const POSITIONS = {
  positionOffset: integer("Position of the first token.", { min: 0, defaultDoc: "0" }),
  positions: value(
    "Positions of the tokens on the host: [seq], or batch row after batch row [batch * seq].",
    "list of numbers",
    isNumberList,
    { optional: true },
  ),
  positionIds: tensor("Positions of the tokens on the GPU, i32 [batch, seq].", { optional: true }),
};

/** What a call says about where its tokens stand. */
export interface GivenPositions {
  readonly positionOffset?: number | undefined;
  readonly positions?: ArrayLike<number> | undefined;
  readonly positionIds?: Tensor | undefined;
}

/** Refuses two answers to one question, and ids that do not fit the tokens. @throws ConfigError, ShapeError, DTypeError */
export function checkPositions(who: string, given: GivenPositions, batch: number, seq: number): void {
  const { positions, positionIds } = given;
  const named = Object.entries(given).flatMap(([name, one]) => (one === undefined ? [] : [name]));
  if (named.length > 1)
    throw new ConfigError(who, `${named.join(" and ")} are given; one of them says where the tokens are`);
  if (positionIds) {
    expectShape(who, "positionIds", positionIds, [batch, seq]);
    expectDType(who, "positionIds", positionIds, "i32");
  }
  if (positions && positions.length !== seq && positions.length !== batch * seq)
    throw new ConfigError(
      who,
      `positions has ${positions.length} entries; it must have ${seq} or ${batch * seq}`,
    );
}

/** The positions of a call on the host; `perBatch` where each batch row has its own. */
export function hostPositions(
  { positionOffset = 0, positions }: GivenPositions,
  seq: number,
): { readonly list: ArrayLike<number>; readonly perBatch: boolean } {
  const list = positions ?? Int32Array.from({ length: seq }, (_, i) => positionOffset + i);
  return { list, perBatch: list.length !== seq };
}

/** @throws ConfigError for a bound of ids that are not on the GPU, whose values are known */
export function expectNoBound(who: string, seqLen: number | undefined): void {
  if (seqLen !== undefined)
    throw new ConfigError(who, `seqLen is ${seqLen}; it is the bound of positionIds, which are not given`);
}
