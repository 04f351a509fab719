import {
  expectInteger,
  expectObject,
  mul,
  randomNormal,
  takeParameter,
  type Gpu,
  type Module,
  type RelativeIndex,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";
import {
  debertaDisentangled,
  debertaIndices,
  type DebertaConfig,
  type DebertaWeights,
} from "./deberta_disentangled.js";

export interface DebertaSettings extends DebertaConfig {
  readonly numHeads: number;
  readonly headDim: number;
  /** Width of the embedding of distances. */
  readonly modelDim: number;
}

/** Names of the published checkpoints. */
const NAMES = {
  relEmbedding: "rel_embeddings.weight",
  posKeyWeight: "pos_key_proj.weight",
  posKeyBias: "pos_key_proj.bias",
  posQueryWeight: "pos_query_proj.weight",
  posQueryBias: "pos_query_proj.bias",
} as const;

/** `debertaDisentangled` with its embedding of distances and their projections. */
export class DebertaDisentangled implements Module {
  readonly weights: DebertaWeights;
  readonly config: DebertaConfig;
  readonly indices: { readonly c2p: RelativeIndex; readonly p2c: RelativeIndex };

  constructor(settings: DebertaSettings, weights: DebertaWeights) {
    const { numHeads, headDim, modelDim, ...config } = settings;
    for (const [name, n] of Object.entries({ numHeads, headDim, modelDim }))
      expectInteger("DebertaDisentangled", name, n, 1);
    this.config = config;
    this.indices = debertaIndices(config);
    this.weights = weights;
  }

  /** Normal numbers of deviation `std` (0.02), without biases. */
  static init(
    gpu: Gpu,
    settings: DebertaSettings & { readonly std?: number; readonly seed?: number },
  ): DebertaDisentangled {
    expectObject("DebertaDisentangled", "settings", settings);
    const { std = 0.02, seed = 0, ...own } = settings;
    const { numHeads, headDim, modelDim, c2p = true, p2c = true } = own;
    const rows = 2 * (own.positionBuckets ?? own.maxDistance);
    const random = (shape: number[], n: number): Tensor =>
      gpu.keep(gpu.scope(() => mul(randomNormal(gpu, shape, { seed: seed + n }), std)));
    return new DebertaDisentangled(own, {
      relEmbedding: random([rows, modelDim], 0),
      posKeyWeight: c2p ? random([numHeads * headDim, modelDim], 1) : undefined,
      posQueryWeight: p2c ? random([numHeads * headDim, modelDim], 2) : undefined,
    });
  }

  static fromParameters(
    settings: DebertaSettings,
    parameters: Readonly<Record<string, Tensor>>,
  ): DebertaDisentangled {
    const weights = Object.fromEntries(Object.entries(NAMES).map(([own, name]) => [own, parameters[name]]));
    takeParameter("DebertaDisentangled", parameters, NAMES.relEmbedding);
    return new DebertaDisentangled(settings, weights as unknown as DebertaWeights);
  }

  /** Attention's scale and the position terms. */
  prepare(q: Tensor, k: Tensor): { scale: number; modifiers: RelativeModifier[] } {
    return debertaDisentangled(q, k, this.weights, this.config, this.indices);
  }

  parameters(): Record<string, Tensor> {
    const found: Record<string, Tensor> = {};
    for (const [own, name] of Object.entries(NAMES)) {
      const tensor = this.weights[own as keyof typeof NAMES];
      if (tensor) found[name] = tensor;
    }
    return found;
  }

  /** Free the tables of distances; the parameters belong to the caller. */
  dispose(): void {
    this.indices.c2p.dispose();
    this.indices.p2c.dispose();
  }
}
