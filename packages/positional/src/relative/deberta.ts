import {
  boolean,
  Component,
  ConfigError,
  integer,
  matrix,
  schema,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type RelativeIndex,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";
import { DEBERTA, debertaDisentangled, debertaIndices } from "./deberta_disentangled.js";

const DEBERTA_DISENTANGLED = schema("DebertaDisentangled", {
  numHeads: integer("Heads of queries and keys.", { min: 1 }),
  headDim: integer("Width of a head.", { min: 1 }),
  modelDim: integer("Width of the embedding of distances.", { min: 1 }),
  ...DEBERTA,
  posKeyBias: boolean("A bias of the projection of c2p.", { default: false }),
  posQueryBias: boolean("A bias of the projection of p2c, as version 1 has it.", { default: false }),
});
export type DebertaDisentangledConfig = Config<typeof DEBERTA_DISENTANGLED>;

/**
 * `debertaDisentangled` with its embedding of distances and their projections, named as in the published checkpoints:
 * `rel_embeddings.weight` [2 span, modelDim], `pos_key_proj.weight` and `pos_query_proj.weight` [numHeads headDim,
 * modelDim], initially normal of deviation 0.02, and with `posKeyBias` or `posQueryBias` their biases of zeros.
 */
export class DebertaDisentangled extends Component<typeof DEBERTA_DISENTANGLED> {
  static readonly schema = DEBERTA_DISENTANGLED;
  /** Rows of both terms for each distance; the component frees their tables on the device. */
  readonly indices: { readonly c2p: RelativeIndex; readonly p2c: RelativeIndex };

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: DebertaDisentangledConfig): ParameterPlan {
    const read = DEBERTA_DISENTANGLED.read(config);
    const { numHeads, headDim, modelDim, c2p, p2c, posKeyBias, posQueryBias } = read;
    const inner = numHeads * headDim;
    const projection = (name: string, used: boolean, bias: boolean, key: string): ParameterPlan => {
      if (bias && !used)
        throw new ConfigError(DEBERTA_DISENTANGLED.name, `${key} is true; its term is left out`);
      return used
        ? { [`${name}.weight`]: matrix(inner, modelDim), ...(bias ? { [`${name}.bias`]: zeros(inner) } : {}) }
        : {};
    };
    return {
      "rel_embeddings.weight": matrix(2 * (read.positionBuckets ?? read.maxDistance), modelDim),
      ...projection("pos_key_proj", c2p, posKeyBias, "posKeyBias"),
      ...projection("pos_query_proj", p2c, posQueryBias, "posQueryBias"),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: DebertaDisentangledConfig, parameters: Parameters) {
    super(DEBERTA_DISENTANGLED, config, DebertaDisentangled.plan(config), parameters);
    const { maxDistance, positionBuckets, p2cIndex } = this.config;
    const { c2p, p2c } = debertaIndices({ maxDistance, positionBuckets, p2cIndex });
    this.indices = { c2p: this.own(c2p), p2c: this.own(p2c) };
  }

  /**
   * Attention's scale and the position terms that it adds. q, k [batch, numHeads, seq, headDim], f32 or f16.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  prepare(q: Tensor, k: Tensor): { scale: number; modifiers: RelativeModifier[] } {
    const { maxDistance, positionBuckets, c2p, p2c, p2cIndex } = this.config;
    return debertaDisentangled(q, k, {
      maxDistance,
      positionBuckets,
      c2p,
      p2c,
      p2cIndex,
      relEmbedding: this.weights["rel_embeddings.weight"]!,
      posKeyWeight: this.weights["pos_key_proj.weight"],
      posKeyBias: this.weights["pos_key_proj.bias"],
      posQueryWeight: this.weights["pos_query_proj.weight"],
      posQueryBias: this.weights["pos_query_proj.bias"],
      indices: this.indices,
    });
  }
}
