import {
  add,
  checkConfig,
  expectInteger,
  expectNumber,
  mul,
  takeParameter,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { drawer, type InitOptions } from "../experts/expert_parameters.js";
import { peer, type PeerOptions, type PeerResult, type PeerWeights, type QueryStatistics } from "./peer.js";

export interface PeerConfig extends Omit<PeerOptions, "statistics"> {
  readonly dim: number;
  /** Keys of a half, n; there are n^2 experts. */
  readonly numKeys: number;
  /** Keys for each head instead of shared ones. */
  readonly keysPerHead?: boolean;
  /** Share of a new batch in the running statistics of queryNorm "batch"; default 0.1. */
  readonly momentum?: number;
}

type LayerOptions = Omit<PeerConfig, "dim" | "numKeys" | "keysPerHead">;

/**
 * `peer` with its parameters: to_queries.weight, keys, weight_down_embed.weight (u), weight_up_embed.weight (v), and
 * with queryNorm "batch" norm.weight and norm.bias, with the buffers norm.running_mean and norm.running_var.
 */
export class Peer implements Module {
  readonly #options: Omit<PeerOptions, "statistics">;
  readonly #momentum: number;
  readonly #weights: PeerWeights;
  readonly #running: QueryStatistics | undefined;

  constructor(options: LayerOptions, weights: PeerWeights, running?: QueryStatistics) {
    const { momentum = 0.1, ...rest } = options;
    expectNumber("Peer", "momentum", momentum, 0, 1);
    this.#options = rest;
    this.#momentum = momentum;
    this.#weights = weights;
    this.#running = running;
  }

  static init(gpu: Gpu, config: PeerConfig, init: InitOptions): Peer {
    const who = "Peer";
    checkConfig(who, config, [
      "dim",
      "numKeys",
      "keysPerHead",
      "momentum",
      "numHeads",
      "topK",
      "queryDim",
      "queryNorm",
      "normEps",
      "scoreActivation",
      "activation",
    ]);
    const { dim, numKeys, keysPerHead = false, ...options } = config;
    for (const [name, value] of Object.entries({ dim, numKeys })) expectInteger(who, name, value, 1);
    const { numHeads, queryDim } = options;
    const draw = drawer(who, gpu, init);
    const { std = 0.02, outStd = std } = init;
    const features = numHeads * queryDim;
    const normed = options.queryNorm === "batch";
    const constant = (value: number): Tensor => gpu.keep(gpu.full([features], value));
    return new Peer(
      options,
      {
        wQuery: draw([features, dim], std),
        keys: draw([...(keysPerHead ? [numHeads] : []), 2, numKeys, queryDim / 2], (2 / queryDim) ** 0.5),
        expertDown: draw([numKeys * numKeys, dim], std),
        expertUp: draw([numKeys * numKeys, dim], outStd),
        ...(normed ? { normWeight: constant(1), normBias: constant(0) } : {}),
      },
      normed ? { mean: constant(0), variance: constant(1) } : undefined,
    );
  }

  static fromParameters(config: LayerOptions, parameters: Readonly<Record<string, Tensor>>): Peer {
    const take = (name: string): Tensor => takeParameter("Peer", parameters, name);
    const normed = config.queryNorm === "batch";
    return new Peer(
      config,
      {
        wQuery: take("to_queries.weight"),
        keys: take("keys"),
        expertDown: take("weight_down_embed.weight"),
        expertUp: take("weight_up_embed.weight"),
        normWeight: normed ? parameters["norm.weight"] : undefined,
        normBias: normed ? parameters["norm.bias"] : undefined,
      },
      normed ? { mean: take("norm.running_mean"), variance: take("norm.running_var") } : undefined,
    );
  }

  /** In training, queries are normalised over this batch; else by the running statistics. */
  forward(x: Tensor, { training = false }: { readonly training?: boolean } = {}): PeerResult {
    return peer(x, this.#weights, { ...this.#options, statistics: training ? undefined : this.#running });
  }

  /** After a training step: mix the batch's statistics (of `forward`) into the running ones. */
  updateStatistics({ statistics }: PeerResult): void {
    const running = this.#running;
    if (!running || !statistics) return;
    const { gpu } = running.mean;
    gpu.scope(() => {
      for (const key of ["mean", "variance"] as const) {
        const next = add(mul(running[key], 1 - this.#momentum), mul(statistics[key], this.#momentum));
        gpu.copy(next, running[key]);
      }
    });
  }

  parameters(): Record<string, Tensor> {
    const { wQuery, keys, expertDown, expertUp, normWeight, normBias } = this.#weights;
    return {
      "to_queries.weight": wQuery,
      keys,
      "weight_down_embed.weight": expertDown,
      "weight_up_embed.weight": expertUp,
      ...(normWeight ? { "norm.weight": normWeight } : {}),
      ...(normBias ? { "norm.bias": normBias } : {}),
    };
  }

  /** What training does not change by gradients. */
  buffers(): Record<string, Tensor> {
    return this.#running
      ? { "norm.running_mean": this.#running.mean, "norm.running_var": this.#running.variance }
      : {};
  }
}
