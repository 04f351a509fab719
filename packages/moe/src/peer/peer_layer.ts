import {
  add,
  boolean,
  Component,
  ConfigError,
  expectInteger,
  expectTensor,
  integer,
  mul,
  noGrad,
  number,
  ones,
  schema,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { peer, PEER_FIELDS, type PeerOptions, type PeerResult, type PeerWeights } from "./peer.js";
import { peerKeys } from "./peer_keys.js";

const PEER = schema("Peer", {
  dim: integer("Width of x.", { min: 1 }),
  numKeys: integer("Keys of a half, n; there are n^2 experts.", { min: 1 }),
  ...PEER_FIELDS,
  keysPerHead: boolean("Keys for each head instead of shared ones.", { default: false }),
  momentum: number('Share of a new batch in the running statistics of queryNorm "batch".', {
    min: 0,
    max: 1,
    default: 0.1,
  }),
});
const CALL = schema("Peer.forward", {
  training: boolean(
    "Queries are normalised over this batch, whose statistics move the running ones; otherwise by the running ones.",
    { default: false },
  ),
});
export type PeerConfig = Config<typeof PEER>;
export type PeerForwardOptions = Config<typeof CALL>;

/**
 * `peer` with its parameters: to_queries.weight, keys, weight_down_embed.weight (u), weight_up_embed.weight (v), and
 * with queryNorm "batch" norm.weight and norm.bias, with the buffers norm.running_mean and norm.running_var.
 */
export class Peer extends Component<typeof PEER> {
  static readonly schema = PEER;

  /** Name, shape and initial distribution of every parameter and buffer. @throws ConfigError */
  static plan(config: PeerConfig): ParameterPlan {
    const { dim, numKeys, numHeads, topK, queryDim, queryNorm, keysPerHead } = PEER.read(config);
    if (queryDim % 2 !== 0) throw new ConfigError(PEER.name, `queryDim is ${queryDim}; it must be even`);
    expectInteger(PEER.name, "topK", topK, 1, numKeys);
    const features = numHeads * queryDim;
    const keys = [2, numKeys, queryDim / 2];
    const table = [numKeys ** 2, dim];
    return {
      "to_queries.weight": { shape: [features, dim], init: { std: dim ** -0.5 } },
      keys: { shape: keysPerHead ? [numHeads, ...keys] : keys, init: { std: (queryDim / 2) ** -0.5 } },
      "weight_down_embed.weight": { shape: table, init: { std: dim ** -0.5 } },
      "weight_up_embed.weight": { shape: table, init: { std: 0.1 }, role: "output" },
      ...(queryNorm === "batch"
        ? {
            "norm.weight": ones(features),
            "norm.bias": zeros(features),
            "norm.running_mean": { ...zeros(features), buffer: true },
            "norm.running_var": { ...ones(features), buffer: true },
          }
        : {}),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: PeerConfig, parameters: Parameters) {
    super(PEER, config, Peer.plan(config), parameters);
  }

  get #tables(): PeerWeights {
    return {
      wQuery: this.weights["to_queries.weight"]!,
      keys: this.weights["keys"]!,
      expertDown: this.weights["weight_down_embed.weight"]!,
      expertUp: this.weights["weight_up_embed.weight"]!,
      normWeight: this.weights["norm.weight"],
      normBias: this.weights["norm.bias"],
    };
  }

  #options(training: boolean): PeerOptions {
    const { numHeads, topK, queryDim, queryNorm, normEps, scoreActivation, activation } = this.config;
    const { "norm.running_mean": mean, "norm.running_var": variance } = this.weights;
    return {
      ...{ numHeads, topK, queryDim, queryNorm, normEps, scoreActivation, activation },
      statistics: training || !mean || !variance ? undefined : { mean, variance },
    };
  }

  /** x [..., dim]; returns the shape of x. @throws ShapeError, DTypeError, ConfigError */
  forward(x: Tensor, options: PeerForwardOptions = {}): Tensor {
    expectTensor(CALL.name, "x", x);
    return x.gpu.scope(() => this.outputs(x, options).out);
  }

  /** `forward` with what the heads retrieved. @throws ShapeError, DTypeError, ConfigError */
  outputs(x: Tensor, options: PeerForwardOptions = {}): PeerResult {
    expectTensor(CALL.name, "x", x);
    const { training } = CALL.read(options);
    return x.gpu.scope(() => {
      const result = peer(x, this.#tables, this.#options(training));
      if (training) this.#move(result);
      return result;
    });
  }

  /** Mixes a batch's statistics into the running ones. */
  #move({ statistics }: PeerResult): void {
    const { "norm.running_mean": mean, "norm.running_var": variance } = this.weights;
    if (!statistics || !mean || !variance) return;
    const { momentum } = this.config;
    noGrad(() => {
      for (const [running, batch] of [
        [mean, statistics.mean],
        [variance, statistics.variance],
      ] as const)
        running.gpu.copy(add(mul(running, 1 - momentum), mul(batch, momentum)), running);
    });
  }

  /** `peerKeys`: the coefficient of every expert, [..., n^2]. @throws ShapeError, DTypeError, ConfigError */
  coefficients(x: Tensor): Tensor {
    return peerKeys(x, this.#tables, this.#options(false));
  }
}
