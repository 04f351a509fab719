import {
  add,
  checkConfig,
  ConfigError,
  embedding,
  expectInteger,
  ShapeError,
  showShape,
  type Tensor,
} from "@x/kernels";

export interface AbsoluteOptions {
  /** Position of the first token; default 0. Models that shift ids (OPT by 2) do it here. */
  readonly positionOffset?: number;
  /** Positions of the tokens, [seq] or [batch * seq]. */
  readonly positions?: ArrayLike<number> | undefined;
}

/** Positions of a call on the host: [seq], or [batch * seq]. */
export function positionsOf(
  who: string,
  x: Tensor,
  options: AbsoluteOptions,
): { list: ArrayLike<number>; perBatch: boolean } {
  checkConfig(who, options, ["positionOffset", "positions"]);
  if (x.rank !== 3)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must be [batch, seq, dim]`);
  const [batch, seq] = x.shape as [number, number];
  const { positionOffset = 0 } = options;
  expectInteger(who, "positionOffset", positionOffset, 0);
  const list = options.positions ?? Int32Array.from({ length: seq }, (_, i) => positionOffset + i);
  if (list.length !== seq && list.length !== batch * seq)
    throw new ConfigError(who, `positions has ${list.length} entries; it must have ${seq} or ${batch * seq}`);
  return { list, perBatch: list.length !== seq };
}

/**
 * Learned absolute positions: out[b, s] = x[b, s] + table[position]. A position past the table is refused: there is
 * nothing to extrapolate from.
 *
 * x [batch, seq, dim], table [maxPositions, dim]. Gehring et al. 2017, arXiv:1705.03122.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function learnedAbsolute(x: Tensor, table: Tensor, options: AbsoluteOptions = {}): Tensor {
  const who = "learnedAbsolute";
  const { list, perBatch } = positionsOf(who, x, options);
  if (table.rank !== 2 || table.shape[1] !== x.shape[2])
    throw new ShapeError(
      who,
      `table has shape ${showShape(table.shape)}; it must be [maxPositions, ${x.shape[2]!}]`,
    );
  const [rows] = table.shape as [number, number];
  for (let i = 0; i < list.length; i++) expectInteger(who, "positions", list[i], 0, rows - 1);
  const [batch, seq] = x.shape as [number, number];
  return x.gpu.scope(() =>
    add(x, embedding(table, x.gpu.tensor(list, perBatch ? [batch, seq] : [seq], "i32"))),
  );
}
