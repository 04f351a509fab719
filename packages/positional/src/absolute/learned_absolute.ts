import {
  add,
  checkConfig,
  ConfigError,
  embedding,
  expectDType,
  expectInteger,
  expectShape,
  ShapeError,
  mul,
  randomNormal,
  showShape,
  takeParameter,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";

export interface AbsoluteOptions {
  /** Position of the first token; default 0. Models that shift ids (OPT by 2) do it here. */
  readonly positionOffset?: number;
  /** Positions of the tokens, [seq] or [batch * seq]. */
  readonly positions?: ArrayLike<number> | undefined;
}

/** Positions that are on the GPU already: i32 [batch, seq], all below `seqLen`. */
export interface DevicePositions {
  readonly positionIds: Tensor;
  readonly seqLen: number;
}

/** @throws ShapeError, DTypeError, ConfigError */
export function checkDevicePositions(who: string, x: Tensor, { positionIds, seqLen }: DevicePositions): void {
  expectShape(who, "positionIds", positionIds, x.shape.slice(0, 2));
  expectDType(who, "positionIds", positionIds, "i32");
  expectInteger(who, "seqLen (with positionIds)", seqLen, 1);
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
 * nothing to extrapolate from; of positions on the GPU, `seqLen` is.
 *
 * x [batch, seq, dim], table [maxPositions, dim]. Gehring et al. 2017, arXiv:1705.03122.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function learnedAbsolute(
  x: Tensor,
  table: Tensor,
  options: AbsoluteOptions | DevicePositions = {},
): Tensor {
  const who = "learnedAbsolute";
  if (table.rank !== 2 || table.shape[1] !== x.shape[2])
    throw new ShapeError(
      who,
      `table has shape ${showShape(table.shape)}; it must be [maxPositions, ${x.shape[2]!}]`,
    );
  const [rows] = table.shape as [number, number];
  if ("positionIds" in options) {
    checkConfig(who, options, ["positionIds", "seqLen"]);
    checkDevicePositions(who, x, options);
    expectInteger(who, "seqLen", options.seqLen, 1, rows);
    return x.gpu.scope(() => add(x, embedding(table, options.positionIds)));
  }
  const { list, perBatch } = positionsOf(who, x, options);
  for (let i = 0; i < list.length; i++) expectInteger(who, "positions", list[i], 0, rows - 1);
  const [batch, seq] = x.shape as [number, number];
  return x.gpu.scope(() =>
    add(x, embedding(table, x.gpu.tensor(list, perBatch ? [batch, seq] : [seq], "i32"))),
  );
}

/** `learnedAbsolute` with its table, `weight` [maxPositions, dim]. */
export class LearnedAbsolute implements Module {
  readonly weight: Tensor;

  constructor(weight: Tensor) {
    this.weight = weight;
  }

  /** Normal numbers of deviation `std` (0.02). */
  static init(
    gpu: Gpu,
    config: {
      readonly dim: number;
      readonly maxPositions: number;
      readonly std?: number;
      readonly seed?: number;
    },
  ): LearnedAbsolute {
    const who = "LearnedAbsolute";
    checkConfig(who, config, ["dim", "maxPositions", "std", "seed"]);
    const { dim, maxPositions, std = 0.02, seed = 0 } = config;
    expectInteger(who, "dim", dim, 1);
    expectInteger(who, "maxPositions", maxPositions, 1);
    const weight = gpu.scope(() => mul(randomNormal(gpu, [maxPositions, dim], { seed }), std));
    return new LearnedAbsolute(gpu.keep(weight));
  }

  static fromParameters(parameters: Readonly<Record<string, Tensor>>): LearnedAbsolute {
    return new LearnedAbsolute(takeParameter("LearnedAbsolute", parameters, "weight"));
  }

  forward(x: Tensor, options: AbsoluteOptions | DevicePositions = {}): Tensor {
    return learnedAbsolute(x, this.weight, options);
  }

  parameters(): Record<string, Tensor> {
    return { weight: this.weight };
  }
}
