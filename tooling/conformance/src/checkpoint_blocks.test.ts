import { readFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import {
  GatedDeltaNet,
  GriffinBlock,
  Mamba2Block,
  MambaBlock,
  Rwkv4ChannelMix,
  Rwkv4TimeMix,
} from "@x/attention";
import { subParameters, type Gpu, type Tensor } from "@x/kernels";
import { Safetensors } from "@x/kernels/safetensors";
import { sharedFolder, useGpu } from "@x/testing";

/*
 * The first block of public checkpoints, with the parameters by the names and in the shapes of the file: from the hidden states
 * that enter it to those that leave it, which a float64 reference of the folder computed. What surrounds a mixer is plain
 * float64 here. Skipped where the folder of checkpoints is absent.
 */

type Rows = readonly (readonly number[])[];

const dot = (a: ArrayLike<number>, b: readonly number[]): number =>
  b.reduce((sum, x, i) => sum + x * a[i]!, 0);
const mean = (x: readonly number[]): number => x.reduce((a, b) => a + b, 0) / x.length;
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const silu = (x: number): number => x * sigmoid(x);
const geluTanh = (x: number): number =>
  (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const plus = (a: Rows, b: Rows): Rows => a.map((row, t) => row.map((x, i) => x + b[t]![i]!));

/** A checkpoint's numbers, and what is computed from them. */
class Checkpoint {
  readonly config: Readonly<Record<string, number>>;
  readonly #values: Readonly<Record<string, Float32Array>>;
  readonly #shapes: Readonly<Record<string, readonly number[]>>;
  readonly hidden: readonly Rows[];

  private constructor(
    config: Readonly<Record<string, number>>,
    values: Readonly<Record<string, Float32Array>>,
    shapes: Readonly<Record<string, readonly number[]>>,
    hidden: readonly Rows[],
  ) {
    [this.config, this.#values, this.#shapes, this.hidden] = [config, values, shapes, hidden];
  }

  static async open(family: string): Promise<Checkpoint> {
    const folder = sharedFolder(`models/${family}`)!;
    const read = (name: string): Promise<Buffer> => readFile(`${folder}/${name}`);
    // Mamba-2's file has a bare Infinity, which is no JSON.
    const text = (await read("config.json")).toString().replaceAll("Infinity", "1e999");
    const config = JSON.parse(text) as Record<string, number>;
    const file = await Safetensors.parse(family, await read("model.safetensors"));
    const expected = await Safetensors.parse(family, await read("expected.safetensors"));
    const values: Record<string, Float32Array> = {};
    const shapes: Record<string, readonly number[]> = {};
    for (const name of file.names) {
      values[name] = (await file.numbers(name)) as Float32Array;
      shapes[name] = file.entry(name).shape;
    }
    const hidden: Rows[] = [];
    for (const at of [0, 1]) {
      const flat = await expected.numbers(`c0.hidden.${at}`);
      const [rows, width] = expected.entry(`c0.hidden.${at}`).shape as [number, number];
      hidden.push(Array.from({ length: rows }, (_, t) => [...flat.slice(t * width, (t + 1) * width)]));
    }
    return new Checkpoint(config, values, shapes, hidden);
  }

  parameters(gpu: Gpu, prefix: string): Record<string, Tensor> {
    const all = Object.entries(this.#values).filter(([name]) => name.startsWith(`${prefix}.`));
    return subParameters(
      Object.fromEntries(all.map(([name, data]) => [name, gpu.tensor(data, this.#shapes[name])])),
      prefix,
    );
  }

  linear(x: Rows, name: string): Rows {
    const [weight, bias] = [this.#values[`${name}.weight`]!, this.#values[`${name}.bias`]];
    const width = x[0]!.length;
    return x.map((row) =>
      Array.from(
        { length: weight.length / width },
        (_, o) => dot(weight.subarray(o * width, (o + 1) * width), row) + (bias?.[o] ?? 0),
      ),
    );
  }

  /** x / rms(x) (offset + weight) */
  rms(x: Rows, name: string, eps: number, offset = 0): Rows {
    const weight = this.#values[`${name}.weight`]!;
    return x.map((row) => {
      const scale = (mean(row.map((value) => value ** 2)) + eps) ** -0.5;
      return row.map((value, i) => value * scale * (offset + weight[i]!));
    });
  }

  layerNorm(x: Rows, name: string, eps: number): Rows {
    return x.map((row) => {
      const middle = mean(row);
      const scale = (mean(row.map((value) => (value - middle) ** 2)) + eps) ** -0.5;
      return row.map(
        (value, i) =>
          (value - middle) * scale * this.#values[`${name}.weight`]![i]! + this.#values[`${name}.bias`]![i]!,
      );
    });
  }

  /** down(activation(gate x) * up x) */
  gated(x: Rows, name: string, activation: (x: number) => number): Rows {
    const [gate, up] = [this.linear(x, `${name}.gate_proj`), this.linear(x, `${name}.up_proj`)];
    const inner = gate.map((row, t) => row.map((value, i) => activation(value) * up[t]![i]!));
    return this.linear(inner, `${name}.down_proj`);
  }
}

describe("the first block of public checkpoints", () => {
  const device = useGpu();

  const run = async (x: Rows, layer: { forward(x: Tensor): Tensor }): Promise<Rows> => {
    const [seq, dim] = [x.length, x[0]!.length];
    const flat = await device.gpu
      .scope(() => layer.forward(device.gpu.tensor(x.flat(), [1, seq, dim])))
      .read();
    return x.map((_, t) => [...flat.slice(t * dim, (t + 1) * dim)]);
  };
  const expectBlock = ({ hidden }: Checkpoint, out: Rows): void => {
    const worst = out.map((row, t) => Math.max(...row.map((x, i) => Math.abs(x - hidden[1]![t]![i]!))));
    expect(Math.max(...worst)).toBeLessThan(5e-5);
  };
  const block = (family: string, test: (checkpoint: Checkpoint) => Promise<void>): void => {
    it.skipIf(sharedFolder(`models/${family}`) === undefined)(family, async () => {
      await test(await Checkpoint.open(family));
    });
  };

  block("mamba", async (c) => {
    const { hidden_size: dim = 0, layer_norm_epsilon: eps = 0 } = c.config;
    const prefix = "backbone.layers.0";
    const layer = new MambaBlock(
      {
        ...{ dim, innerDim: c.config["intermediate_size"]!, stateSize: c.config["state_size"]! },
        ...{ convSize: c.config["conv_kernel"]!, dtRank: c.config["time_step_rank"]! },
      },
      c.parameters(device.gpu, `${prefix}.mixer`),
    );
    expectBlock(c, plus(c.hidden[0]!, await run(c.rms(c.hidden[0]!, `${prefix}.norm`, eps), layer)));
  });

  block("mamba2", async (c) => {
    const { hidden_size: dim = 0, layer_norm_epsilon: eps = 0 } = c.config;
    const prefix = "backbone.layers.0";
    const layer = new Mamba2Block(
      {
        ...{ dim, numHeads: c.config["num_heads"]!, headDim: c.config["head_dim"]! },
        ...{ stateSize: c.config["state_size"]!, numGroups: c.config["n_groups"]!, normEps: eps },
        ...{ convSize: c.config["conv_kernel"]!, chunkSize: c.config["chunk_size"]! },
        dtLimit: c.config["time_step_limit"] as unknown as readonly [number, number],
      },
      c.parameters(device.gpu, `${prefix}.mixer`),
    );
    expectBlock(c, plus(c.hidden[0]!, await run(c.rms(c.hidden[0]!, `${prefix}.norm`, eps), layer)));
  });

  block("rwkv", async (c) => {
    const { hidden_size: dim = 0, layer_norm_epsilon: eps = 0 } = c.config;
    const prefix = "rwkv.blocks.0";
    const time = new Rwkv4TimeMix(
      { dim, attentionDim: c.config["attention_hidden_size"]! },
      c.parameters(device.gpu, `${prefix}.attention`),
    );
    const channel = new Rwkv4ChannelMix(
      { dim, ffnDim: c.config["intermediate_size"]! },
      c.parameters(device.gpu, `${prefix}.feed_forward`),
    );
    const x = c.hidden[0]!; // pre_ln has been applied to it.
    const mixed = plus(x, await run(c.layerNorm(x, `${prefix}.ln1`, eps), time));
    expectBlock(c, plus(mixed, await run(c.layerNorm(mixed, `${prefix}.ln2`, eps), channel)));
  });

  block("recurrent_gemma", async (c) => {
    const { hidden_size: dim = 0, rms_norm_eps: eps = 0 } = c.config;
    const prefix = "model.layers.0";
    const layer = new GriffinBlock(
      {
        ...{ dim, lruWidth: c.config["lru_width"]!, numBlocks: c.config["num_attention_heads"]! },
        ...{ convSize: c.config["conv1d_width"]!, wholeFirst: true },
      },
      c.parameters(device.gpu, `${prefix}.temporal_block`),
    );
    const x = c.hidden[0]!;
    const mixed = plus(x, await run(c.rms(x, `${prefix}.temporal_pre_norm`, eps, 1), layer));
    const inner = c.rms(mixed, `${prefix}.channel_pre_norm`, eps, 1);
    expectBlock(c, plus(mixed, c.gated(inner, `${prefix}.mlp_block`, geluTanh)));
  });

  block("qwen3_next", async (c) => {
    const { hidden_size: dim = 0, rms_norm_eps: eps = 0, num_experts_per_tok: topK = 0 } = c.config;
    const prefix = "model.layers.0";
    const layer = new GatedDeltaNet(
      {
        ...{ dim, projections: "byKeyHead", normEps: eps, convSize: c.config["linear_conv_kernel_dim"]! },
        numKeyHeads: c.config["linear_num_key_heads"]!,
        numValueHeads: c.config["linear_num_value_heads"]!,
        keyDim: c.config["linear_key_head_dim"]!,
        valueDim: c.config["linear_value_head_dim"]!,
        chunkSize: 4,
      },
      c.parameters(device.gpu, `${prefix}.linear_attn`),
    );
    const x = c.hidden[0]!;
    const mixed = plus(x, await run(c.rms(x, `${prefix}.input_layernorm`, eps, 1), layer));
    const inner = c.rms(mixed, `${prefix}.post_attention_layernorm`, eps, 1);
    const scores = c.linear(inner, `${prefix}.mlp.gate`).map((row) => row.map(Math.exp));
    const shared = c.gated(inner, `${prefix}.mlp.shared_expert`, silu);
    const share = c.linear(inner, `${prefix}.mlp.shared_expert_gate`);
    const experts = scores[0]!.map((_, e) => c.gated(inner, `${prefix}.mlp.experts.${e}`, silu));
    const out = inner.map((row, t) => {
      const chosen = [...scores[t]!.keys()].sort((a, b) => scores[t]![b]! - scores[t]![a]!).slice(0, topK);
      const total = chosen.reduce((sum, e) => sum + scores[t]![e]!, 0);
      return row.map((_, i) =>
        chosen.reduce(
          (sum, e) => sum + (scores[t]![e]! / total) * experts[e]![t]![i]!,
          sigmoid(share[t]![0]!) * shared[t]![i]!,
        ),
      );
    });
    expectBlock(c, plus(mixed, out));
  });
});
