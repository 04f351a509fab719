import {
  expectInteger,
  expectObject,
  expectShape,
  randomUniform,
  takeParameter,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";

/** Sizes of a KAN layer. */
export interface KanShape {
  readonly inFeatures: number;
  readonly outFeatures: number;
}

export interface KanInit {
  readonly seed: number;
  /** First random stream of the layer, which takes up to three. */
  readonly stream?: number;
  /**
   * Fourier series: initial coefficients fall with the square of the frequency, so that functions are smooth (their
   * slopes otherwise grow with the grid, and two layers in a row are noise to each other). Default false.
   */
  readonly smooth?: boolean;
}

/** A layer [..., in] -> [..., out] whose edges are functions. */
export interface KanLayer extends Module {
  forward(x: Tensor): Tensor;
  /** What a checkpoint holds besides the parameters. */
  buffers?(): Record<string, Tensor>;
}

export const INIT_KEYS = ["seed", "stream", "smooth"] as const;
export const SHAPE_KEYS = ["inFeatures", "outFeatures"] as const;

export function checkShape(who: string, config: KanShape): void {
  expectObject(who, "config", config);
  expectInteger(who, "inFeatures", config.inFeatures, 1);
  expectInteger(who, "outFeatures", config.outFeatures, 1);
}

/** Kaiming's uniform numbers with a = sqrt 5: within 1 / sqrt(in). */
export function kaiming(
  gpu: Gpu,
  { inFeatures, outFeatures }: KanShape,
  seed: number,
  stream: number,
): Tensor {
  const high = 1 / Math.sqrt(inFeatures);
  return gpu.keep(randomUniform(gpu, [outFeatures, inFeatures], { seed, stream, low: -high, high }));
}

/** A layer's weights by name, of the shapes that its configuration says. @throws ConfigError, ShapeError */
export function takeWeights(
  who: string,
  given: Readonly<Record<string, Tensor>>,
  shapes: Readonly<Record<string, readonly number[] | undefined>>,
): Record<string, Tensor> {
  const wanted = Object.entries(shapes).filter(
    (entry): entry is [string, readonly number[]] => entry[1] !== undefined,
  );
  return Object.fromEntries(
    wanted.map(([name, shape]) => {
      const tensor = takeParameter(who, given, name);
      expectShape(who, name, tensor, shape);
      return [name, tensor];
    }),
  );
}

/** A configuration less some keys. */
export function without<C extends object, K extends keyof C>(config: C, ...keys: readonly K[]): Omit<C, K> {
  const rest = Object.entries(config).filter(([key]) => !(keys as readonly string[]).includes(key));
  return Object.fromEntries(rest) as Omit<C, K>;
}
