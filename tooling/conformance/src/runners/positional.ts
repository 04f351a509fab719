import { attention, attentionOutputs } from "@x/attention";
import {
  add,
  broadcastTo,
  e,
  elementwise,
  gather,
  matmul,
  mul,
  takeAlongLast,
  transpose,
  type RelativeModifier,
  type ScoreModifier,
  type Tensor,
} from "@x/kernels";
import {
  alibi,
  alibiSlopes,
  debertaDisentangled,
  debertaIndices,
  learnedAbsolute,
  learnedRope,
  RotaryEmbedding,
  shawIndex,
  shawKeys,
  shawValues,
  sinusoidal,
  sinusoidalTable,
  t5Bias,
  t5Buckets,
  t5Index,
  transformerXlRelative,
  Xpos,
  type DebertaBucketsConfig,
  type DebertaDisentangledOptions,
  type RopeConfig,
  type SinusoidalOptions,
  type SinusoidalTableConfig,
} from "@x/positional";
import { flag, number, optionalNumber } from "../golden/config.js";
import type { Runner, RunnerContext, RunnerOutput } from "../runner.js";

const floats = (data: ArrayLike<number>, shape: readonly number[]): RunnerOutput => ({
  shape,
  data: Float32Array.from(data),
});

const rope: Runner = (context) => {
  const { config, inputs, params } = context;
  const positions = inputs["positions"] ? context.host("positions") : undefined;
  const positionOffset = number(config, "positionOffset", 0);
  const { headDim, rotaryDim, base, layout, scaling } = config as unknown as RopeConfig & {
    scaling?: { type: string };
  };
  const known = {
    headDim,
    ...(rotaryDim === undefined ? {} : { rotaryDim }),
    ...(base === undefined ? {} : { base }),
    ...(layout === undefined ? {} : { layout }),
  };
  if ((scaling as { type: string } | undefined)?.type === "learned") {
    const apply = (x: Tensor): Tensor =>
      learnedRope(x, {
        invFreq: params["invFreq"]!,
        ...(positions ? { positions } : { positionOffset }),
        layout: layout ?? "half",
      });
    return {
      q: apply(inputs["q"]!),
      k: apply(inputs["k"]!),
      invFreq: params["invFreq"]!.reshape(params["invFreq"]!.shape),
    };
  }
  const embedding = new RotaryEmbedding({
    ...known,
    ...(scaling ? { scaling: scaling } : {}),
  });
  const given = optionalNumber(config, "seqLen");
  const seq = inputs["q"]!.shape[2]!;
  const seqLen = given ?? (positions ? Math.max(...Array.from(positions)) + 1 : positionOffset + seq);
  const options = { ...(positions ? { positions } : { positionOffset }), seqLen };
  const { invFreq, attentionFactor } = embedding.frequencies(seqLen);
  return {
    q: embedding.apply(inputs["q"]!, options),
    k: embedding.apply(inputs["k"]!, options),
    invFreq: floats(invFreq, [invFreq.length]),
    attentionFactor: floats([attentionFactor], [1]),
  };
};

/** What modifiers add to a score of 0, with 0 where the causal mask removes an entry. */
function hostBias(
  context: RunnerContext,
  heads: number,
  value: (head: number, distance: number) => number,
  queries: number,
  keys: number,
  masked: boolean,
): RunnerOutput {
  const offset = number(context.config, "queryOffset", 0);
  const data = new Float32Array(heads * queries * keys);
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < queries; i++)
      for (let j = 0; j < keys; j++) {
        const distance = i + offset - j;
        data[(h * queries + i) * keys + j] = masked && distance < 0 ? 0 : value(h, distance);
      }
  return { shape: [heads, queries, keys], data };
}

function attend({ config, inputs }: RunnerContext, modifiers: readonly ScoreModifier[]): Tensor {
  const scale = optionalNumber(config, "scale");
  return attention(inputs["q"]!, inputs["k"]!, inputs["v"]!, {
    causal: flag(config, "causal", false),
    ...(scale === undefined ? {} : { scale }),
    queryOffset: number(config, "queryOffset", 0),
    modifiers,
  });
}

/** 0 where the causal mask removes an entry, else 1: [queries, keys]. */
function keepMatrix({ gpu, config }: RunnerContext, queries: number, keys: number): Tensor {
  const masked = flag(config, "causal", false);
  const offset = number(config, "queryOffset", 0);
  const data = Float32Array.from({ length: queries * keys }, (_, n) =>
    masked && (n % keys) - Math.floor(n / keys) - offset > 0 ? 0 : 1,
  );
  return gpu.tensor(data, [queries, keys]);
}

/** What relative terms add, as a matrix [batch, heads, queries, keys]. */
function relativeBias(
  context: RunnerContext,
  modifiers: readonly RelativeModifier[],
  extra?: Tensor,
): Tensor {
  const { gpu, config, inputs } = context;
  const [batch, heads, queries] = inputs["q"]!.shape as [number, number, number];
  const keys = inputs["k"]!.shape[2]!;
  const offset = number(config, "queryOffset", 0);
  let total = extra;
  for (const { axes, tensor, index } of modifiers) {
    const [rows, columns] = axes === "bhq" ? [queries, keys] : [keys, queries];
    const ids = Int32Array.from({ length: batch * heads * rows * columns }, (_, n) => {
      const [r, c] = [Math.floor(n / columns) % rows, n % columns];
      return index.at(axes === "bhq" ? r + offset - c : c + offset - r);
    });
    const taken = takeAlongLast(tensor, gpu.tensor(ids, [batch, heads, rows, columns], "i32"));
    const term = axes === "bhq" ? taken : transpose(taken);
    total = total ? add(total, term) : term;
  }
  return mul(total ?? gpu.zeros([batch, heads, queries, keys]), keepMatrix(context, queries, keys));
}

const relative: Readonly<Record<string, Runner>> = {
  learned_absolute: (context) => {
    const positions = context.inputs["positions"] ? context.host("positions") : undefined;
    return {
      out: learnedAbsolute(context.inputs["x"]!, {
        weight: context.params["table"]!,
        ...(positions ? { positions } : { positionOffset: number(context.config, "positionOffset", 0) }),
      }),
    };
  },
  sinusoidal: (context) => {
    const { config, inputs } = context;
    const { dim, base, layout, denominator } = config;
    const own = JSON.parse(JSON.stringify({ dim, base, layout, denominator })) as SinusoidalTableConfig;
    const positionOffset = number(config, "positionOffset", 0);
    const seq = inputs["x"]!.shape[1]!;
    const positions = inputs["positions"] ? context.host("positions") : undefined;
    const list = positions ?? Int32Array.from({ length: seq }, (_, i) => positionOffset + i);
    const shape = inputs["positions"]?.shape ?? [seq];
    return {
      out: sinusoidal(inputs["x"]!, {
        ...(JSON.parse(JSON.stringify({ base, layout, denominator })) as SinusoidalOptions),
        ...(positions ? { positions } : { positionOffset }),
        inputScale: number(config, "inputScale", 1),
      }),
      table: floats(sinusoidalTable(list, own), [...shape, own.dim]),
    };
  },
  shaw_relative: (context) => {
    const { config, inputs, params } = context;
    const scale = number(config, "scale", inputs["q"]!.shape[3]! ** -0.5);
    const index = shawIndex(number(config, "maxDistance"));
    const { relKey, relValue } = params;
    const modifiers = relKey ? [shawKeys(inputs["q"]!, { relKey, index, scale })] : [];
    const { out, weightSums } = attentionOutputs(inputs["q"]!, inputs["k"]!, inputs["v"]!, {
      causal: flag(config, "causal", false),
      scale,
      queryOffset: number(config, "queryOffset", 0),
      modifiers,
      ...(relValue ? { weightSums: index } : {}),
    });
    return {
      out: relValue ? shawValues(out, { weightSums: weightSums!, relValue }) : out,
      bias: relativeBias(context, modifiers),
    };
  },
  transformer_xl: (context) => {
    const { config, inputs, params } = context;
    const [q, k] = [inputs["q"]!, inputs["k"]!];
    const [, heads, queries, headDim] = q.shape as [number, number, number, number];
    const keys = k.shape[2]!;
    const scale = number(config, "scale", headDim ** -0.5);
    const offset = number(config, "queryOffset", 0);
    const causal = flag(config, "causal", false);
    const { relProj, contentBias, positionBias } = params as Record<string, Tensor>;
    const { query, modifier } = transformerXlRelative(q, {
      relProj: relProj!,
      contentBias: contentBias!,
      positionBias: positionBias!,
      modelDim: number(config, "modelDim"),
      base: number(config, "base", 10000),
      clampLength: optionalNumber(config, "clampLength"),
      scale,
      minDistance: causal ? 0 : offset - (keys - 1),
      maxDistance: offset + queries - 1,
    });
    const content = matmul(contentBias!.reshape([heads, 1, headDim]), k, { transposeB: true, alpha: scale });
    const wide = broadcastTo(content, [q.shape[0]!, heads, queries, keys]);
    return {
      out: attention(query, k, inputs["v"]!, { causal, scale, queryOffset: offset, modifiers: [modifier] }),
      bias: relativeBias(context, [modifier], wide),
    };
  },
  deberta_disentangled: (context) => {
    const { config, inputs, params } = context;
    const { maxDistance, positionBuckets, c2p, p2c, p2cIndex } = config;
    const own = JSON.parse(
      JSON.stringify({ maxDistance, positionBuckets, p2cIndex }),
    ) as DebertaBucketsConfig;
    const indices = debertaIndices(own);
    const terms = JSON.parse(JSON.stringify({ c2p, p2c })) as object;
    const [q, k] = [inputs["q"]!, inputs["k"]!];
    const { scale, modifiers } = debertaDisentangled(q, k, {
      ...own,
      ...terms,
      ...params,
      indices,
    } as DebertaDisentangledOptions);
    const offset = number(config, "queryOffset", 0);
    const [queries, keys] = [q.shape[2]!, k.shape[2]!];
    const rows = Int32Array.from({ length: queries * keys }, (_, n) =>
      indices.c2p.at(Math.floor(n / keys) + offset - (n % keys)),
    );
    return {
      out: attention(q, k, inputs["v"]!, {
        causal: flag(config, "causal", false),
        scale,
        queryOffset: offset,
        modifiers,
      }),
      bias: relativeBias(context, modifiers),
      buckets: { shape: [queries, keys], data: rows },
    };
  },
};

/** A relative bias as a matrix: what attention adds, made by the general gather. */
const biasMatrix = elementwise("biasMatrix", ["bias", "keep"], (bias, keep) => e.mul(bias, keep));

export const positional: Readonly<Record<string, Runner>> = {
  ...relative,
  rope,
  rope_linear: rope,
  rope_superhot: rope,
  rope_ntk: rope,
  rope_dynamic_ntk: rope,
  rope_ntk_by_parts: rope,
  rope_custom: rope,
  yarn: rope,
  longrope: rope,
  llama3_rope: rope,
  xpos: (context) => {
    const { config, inputs } = context;
    const { headDim, rotaryDim, base, layout, scaleBase, gamma } = config as Record<string, number> & {
      layout?: "half" | "interleaved";
    };
    const xpos = new Xpos(
      JSON.parse(
        JSON.stringify({ headDim, rotaryDim, base, layout, scaleBase, gamma }),
      ) as ConstructorParameters<typeof Xpos>[0],
    );
    const seq = inputs["q"]!.shape[2]!;
    const positionOffset = number(config, "positionOffset", 0);
    const positions = inputs["positions"]
      ? context.host("positions")
      : Int32Array.from({ length: seq }, (_, i) => positionOffset + i);
    const center =
      optionalNumber(config, "center") ?? Math.ceil((Math.max(...Array.from(positions)) + 1) / 2);
    const n = xpos.invFreq.length;
    return {
      q: xpos.apply(inputs["q"]!, "query", { positions, center }),
      k: xpos.apply(inputs["k"]!, "key", { positions, center }),
      invFreq: floats(xpos.invFreq, [n]),
      scale: floats(
        xpos.scales(positions, center),
        positions.length === seq ? [seq, n] : [positions.length / seq, seq, n],
      ),
    };
  },
  nope: (context) => ({ out: attend(context, []) }),
  alibi: (context) => {
    const { gpu, config, inputs } = context;
    const heads = number(config, "numHeads");
    const slopes = alibiSlopes(heads);
    const out: Record<string, RunnerOutput> = { slopes: floats(slopes, [heads]) };
    const [queries, keys] = [
      inputs["q"]?.shape[2] ?? number(config, "queryLength"),
      inputs["k"]?.shape[2] ?? number(config, "keyLength"),
    ];
    if (inputs["q"]) out["out"] = attend(context, [alibi(gpu, heads)]);
    out["bias"] = hostBias(
      context,
      heads,
      (h, d) => -slopes[h]! * Math.abs(d),
      queries,
      keys,
      inputs["q"] !== undefined && flag(config, "causal", false),
    );
    return out;
  },
  t5_bias: (context) => {
    const { gpu, config, inputs, params } = context;
    const causal = flag(config, "causal", false);
    const t5 = {
      numBuckets: number(config, "numBuckets", 32),
      maxDistance: number(config, "maxDistance", 128),
      bidirectional: flag(config, "bidirectional", !causal),
    };
    const bucket = t5Buckets(t5);
    const index = t5Index(t5);
    const table = params["table"]!;
    const [queries, keys] = [
      inputs["q"]?.shape[2] ?? number(config, "queryLength"),
      inputs["k"]?.shape[2] ?? number(config, "keyLength"),
    ];
    const offset = number(config, "queryOffset", 0);
    const rows = Int32Array.from({ length: queries * keys }, (_, n) =>
      bucket((n % keys) - Math.floor(n / keys) - offset),
    );
    const modifier: RelativeModifier = t5Bias(table, index);
    const masked = inputs["q"] !== undefined && causal;
    const keep = gpu.tensor(
      Float32Array.from({ length: queries * keys }, (_, n) =>
        masked && (n % keys) - Math.floor(n / keys) - offset > 0 ? 0 : 1,
      ),
      [queries, keys],
    );
    const gathered = gather(modifier.tensor, gpu.tensor(rows, [queries, keys], "i32"), 1);
    return {
      ...(inputs["q"] ? { out: attend(context, [modifier]) } : {}),
      bias: biasMatrix(gathered, keep),
      buckets: { shape: [queries, keys], data: rows },
    };
  },
};
