import { describe, expect, it } from "vitest";
import { cast, ConfigError, DTypeError, ShapeError, vjp, type Tensor } from "@x/kernels";
import { useGpu } from "@x/testing";
import { expectSame, random } from "../../test-support.js";
import type { Scalar, Tape } from "../state/exact.reference.js";
import { checkExact, cycle, randomData, range, strengths, type Strength } from "../test-support.js";
import {
  deltaRule,
  gatedDeltaRule,
  gatedLinearAttention,
  kda,
  linearAttention,
  type DeltaRuleOptions,
  type MemoryOutputs,
} from "../index.js";

interface Sizes {
  readonly tokens: number;
  readonly dim: number;
  readonly valueDim: number;
  readonly heads: number;
  readonly queryHeads?: number;
  readonly keyHeads?: number;
}
type Named<T> = Readonly<Record<string, T>>;

/** One batch, token after token: g of channels, of heads or absent, beta or absent. */
function memoryReference(
  tape: Tape,
  { q, k, v, g, beta, state }: Named<readonly Scalar[] | undefined>,
  { tokens, dim, valueDim, heads, queryHeads = heads, keyHeads = heads }: Sizes,
  scale: number,
): Scalar[] {
  const outHeads = Math.max(heads, queryHeads);
  const out = Array<Scalar>(outHeads * tokens * valueDim);
  const s = [...state!];
  for (let h = 0; h < heads; h++)
    for (let t = 0; t < tokens; t++) {
      const key = (d: number): Scalar => k![(Math.floor((h * keyHeads) / heads) * tokens + t) * dim + d]!;
      const place = (d: number, e: number): number => (h * dim + d) * valueDim + e;
      const byChannel = g && g.length === heads * tokens * dim;
      if (g)
        for (const d of range(dim)) {
          const gain = tape.exp(g[byChannel ? (h * tokens + t) * dim + d : h * tokens + t]!);
          for (const e of range(valueDim)) s[place(d, e)] = tape.mul(gain, s[place(d, e)]!);
        }
      for (const e of range(valueDim)) {
        const value = v![(h * tokens + t) * valueDim + e]!;
        const found = tape.add(...range(dim).map((d) => tape.mul(key(d), s[place(d, e)]!)));
        const enters = beta ? tape.mul(beta[h * tokens + t]!, tape.add(value, tape.scale(found, -1))) : value;
        for (const d of range(dim)) s[place(d, e)] = tape.add(s[place(d, e)]!, tape.mul(key(d), enters));
      }
      for (const o of range(outHeads).filter((o) => Math.floor((o * heads) / outHeads) === h))
        for (const e of range(valueDim)) {
          const row = Math.floor((o * queryHeads) / outHeads) * tokens + t;
          const sum = tape.add(...range(dim).map((d) => tape.mul(q![row * dim + d]!, s[place(d, e)]!)));
          out[(o * tokens + t) * valueDim + e] = tape.scale(sum, scale);
        }
    }
  return [...out, ...s];
}

describe("delta rules", () => {
  const device = useGpu();
  const hardware = useGpu({ hardware: true });

  /** Values and gradients of every tensor; keys short enough that a step is a contraction. */
  const check = (
    sizes: Sizes,
    gate: "none" | "head" | "channel",
    erases: boolean,
    strength: Strength,
    { gpu } = device,
    form: Pick<DeltaRuleOptions, "form" | "chunkSize"> = {},
  ): Promise<void> => {
    const { tokens, dim, valueDim, heads, queryHeads = heads, keyHeads = heads } = sizes;
    const scale = 0.7;
    return checkExact(gpu, {
      operands: {
        q: randomData([1, queryHeads, tokens, dim], 1),
        k: randomData([1, keyHeads, tokens, dim], 2, 0.6),
        v: randomData([1, heads, tokens, valueDim], 3),
        ...(gate === "none"
          ? {}
          : {
              g: cycle(
                [1, heads, tokens, ...(gate === "channel" ? [dim] : [])],
                strengths[strength].map((x) => -x),
              ),
            }),
        ...(erases ? { beta: randomData([1, heads, tokens], 5, 0.4, 0.5) } : {}),
        state: randomData([1, heads, dim, valueDim], 6),
      },
      gpu: ({ q, k, v, g, beta, state }) => {
        const options = { scale, state: state!, ...form };
        const next = !erases
          ? gatedLinearAttention(q!, k!, v!, g!, options)
          : gate === "none"
            ? deltaRule(q!, k!, v!, beta!, options)
            : (gate === "head" ? gatedDeltaRule : kda)(q!, k!, v!, g!, beta!, options);
        return [next.out, next.state];
      },
      exact: (tape, t) => memoryReference(tape, t, sizes, scale),
    });
  };

  const mechanisms = [
    ["deltaRule", "none", true],
    ["gatedDeltaRule", "head", true],
    ["kda", "channel", true],
    ["gatedLinearAttention of channels", "channel", false],
    ["gatedLinearAttention of heads", "head", false],
  ] as const;

  for (const [name, gate, erases] of mechanisms)
    it.each(
      (gate === "none" ? (["weak"] as const) : (["weak", "strong", "mixed"] as const)).flatMap((strength) =>
        [1, 7, 70].map((tokens) => [strength, tokens] as const),
      ),
    )(`${name}, %s decays, %i tokens: values and every gradient`, async (strength, tokens) => {
      await check({ tokens, dim: 3, valueDim: 2, heads: 1 }, gate, erases, strength);
    });

  const chunks = (chunkSize: number): Pick<DeltaRuleOptions, "form" | "chunkSize"> => ({
    form: "chunkwise",
    chunkSize,
  });
  for (const [name, gate, erases] of mechanisms)
    it(`${name} by chunks, the last one shorter: values and every gradient`, async () => {
      for (const strength of ["weak", "strong", "mixed"] as const)
        if (gate !== "none" || strength === "weak")
          await check(
            { tokens: 7, dim: 3, valueDim: 2, heads: 1 },
            gate,
            erases,
            strength,
            device,
            chunks(3),
          );
    });

  it.each([
    ["neighbouring value heads share a key and a query head", { heads: 4, queryHeads: 2, keyHeads: 1 }],
    ["query heads share a state", { heads: 2, queryHeads: 4, keyHeads: 2 }],
    ["all query heads read one state", { heads: 1, queryHeads: 3, keyHeads: 1 }],
  ] as const)("%s: values and gradients, which add up", async (_, heads) => {
    for (const [, gate, erases] of mechanisms)
      for (const form of [{}, chunks(3)])
        await check({ tokens: 5, dim: 3, valueDim: 2, ...heads }, gate, erases, "mixed", device, form);
  });

  it.each([1, 3, 70])(
    "nothing, half, all and twice is erased, keys of length 1, %i tokens",
    async (tokens) => {
      const sizes = { tokens, dim: 3, valueDim: 2, heads: 1 };
      for (const gate of ["none", "head", "channel"] as const)
        await checkExact(device.gpu, {
          operands: {
            q: randomData([1, 1, tokens, 3], 1),
            k: randomData([1, 1, tokens, 3], 2),
            v: randomData([1, 1, tokens, 2], 3),
            ...(gate === "none"
              ? {}
              : {
                  g: cycle(
                    [1, 1, tokens, ...(gate === "channel" ? [3] : [])],
                    strengths.mixed.map((x) => -x),
                  ),
                }),
            beta: cycle([1, 1, tokens], [0, 1, 2, 0.5, 1e-6]),
            state: randomData([1, 1, 3, 2], 6),
          },
          gpu: ({ q, k, v, g, beta, state }) => {
            const options = { scale: 0.7, state: state!, qkL2norm: true, l2Eps: 1e-3 };
            const next =
              gate === "none"
                ? deltaRule(q!, k!, v!, beta!, options)
                : (gate === "head" ? gatedDeltaRule : kda)(q!, k!, v!, g!, beta!, options);
            return [next.out, next.state];
          },
          exact: (tape, t) => {
            const unit = (x: readonly Scalar[]): Scalar[] =>
              x.map((value, i) => {
                const row = x.slice(i - (i % 3), i - (i % 3) + 3);
                const square = tape.add(...row.map((y) => tape.mul(y, y)));
                const inverse = tape.map(
                  square,
                  (y) => (y + 1e-3) ** -0.5,
                  (y) => -0.5 * (y + 1e-3) ** -1.5,
                );
                return tape.mul(value, inverse);
              });
            return memoryReference(tape, { ...t, q: unit(t["q"]!), k: unit(t["k"]!) }, sizes, 0.7);
          },
        });
    },
  );

  it("as a GPU runs it", async () => {
    await check({ tokens: 67, dim: 4, valueDim: 5, heads: 2 }, "channel", true, "mixed", hardware);
    await check({ tokens: 5, dim: 2, valueDim: 3, heads: 1 }, "head", true, "mixed", hardware);
  });

  const [batch, tokens, dim, valueDim, heads] = [2, 67, 4, 6, 2];
  const given = (): Named<Tensor> => ({
    q: random(device.gpu, [batch, heads, tokens, dim], 1),
    k: random(device.gpu, [batch, heads, tokens, dim], 2),
    v: random(device.gpu, [batch, heads, tokens, valueDim], 3),
    g: random(device.gpu, [batch, heads, tokens], 4),
    beta: random(device.gpu, [batch, heads, tokens], 5),
  });
  const run = ({ q, k, v, g, beta }: Named<Tensor>, options: DeltaRuleOptions = {}): MemoryOutputs =>
    gatedDeltaRule(q!, k!, v!, g!, beta!, { qkL2norm: true, ...options });

  it.each([{}, chunks(16)])("pieces with the state carried = the whole, %o", async (form) => {
    const { gpu } = device;
    const whole = given();
    const at = async (t: Tensor, first: number, last: number): Promise<Tensor> => {
      const width = t.size / (batch * heads * tokens);
      const data = await t.read();
      const rows = range(batch * heads).flatMap((n) => [
        ...data.slice((n * tokens + first) * width, (n * tokens + last) * width),
      ]);
      return gpu.tensor(rows, [batch, heads, last - first, ...t.shape.slice(3)]);
    };
    let state: Tensor | undefined;
    const outs: number[][] = range(batch * heads).map(() => []);
    for (const [first, last] of [
      [0, 1],
      [1, 40],
      [40, 41],
      [41, 67],
    ] as const) {
      const piece = Object.fromEntries(
        await Promise.all(
          Object.entries(whole).map(async ([name, t]) => [name, await at(t, first, last)] as const),
        ),
      );
      const next = run(piece, { state, ...form });
      state = next.state;
      const data = await next.out.read();
      const width = data.length / outs.length;
      outs.forEach((row, n) => row.push(...data.slice(n * width, (n + 1) * width)));
    }
    const once = run(whole, form);
    await expectSame(gpu.tensor(outs.flat(), once.out.shape), once.out);
    await expectSame(state!, once.state);
  });

  it.each([{}, chunks(32)])("tokens before heads: the same output and gradients, %o", async (form) => {
    const whole = given();
    const turned = Object.fromEntries(
      await Promise.all(
        Object.entries(whole).map(async ([name, t]) => {
          const width = t.size / (batch * heads * tokens);
          const data = await t.read();
          const to = range(t.size).map((i) => {
            const [e, h, n] = [i % width, Math.floor(i / width) % heads, Math.floor(i / width / heads)];
            return data[((Math.floor(n / tokens) * heads + h) * tokens + (n % tokens)) * width + e]!;
          });
          return [name, device.gpu.tensor(to, [batch, tokens, heads, ...t.shape.slice(3)])] as const;
        }),
      ),
    );
    const first = vjp(() => [run(whole, form).state], Object.values(whole));
    const second = vjp(() => [run(turned, { layout: "bshd", ...form }).state], Object.values(turned));
    await expectSame(first.outputs[0]!, second.outputs[0]!);
    const ones = (t: Tensor): Tensor => device.gpu.full(t.shape, 1);
    const [a, b] = [first, second].map(({ outputs, pullback }) => pullback([ones(outputs[0]!)]));
    for (const i of range(5)) {
      const sorted = async (t: Tensor): Promise<number[]> => [...(await t.read())].sort((x, y) => x - y);
      expect(await sorted(b![i]!)).toEqual(await sorted(a![i]!));
    }
  });

  it("without decay and without erasing it is linear attention", async () => {
    const { q, k, v, g } = given();
    const none = device.gpu.zeros(g!.shape);
    const plain = linearAttention(q!, k!, v!, { featureMap: "identity", normalize: false });
    await expectSame(gatedLinearAttention(q!, k!, v!, none, { scale: 1 }).out, plain.out);
  });

  it("refuses what does not fit, by name", () => {
    const { q, k, v, g, beta } = given() as Record<"q" | "k" | "v" | "g" | "beta", Tensor>;
    const { gpu } = device;
    expect(() => deltaRule(q, k, v, beta, { qkL2Norm: true } as never)).toThrow(/did you mean "qkL2norm"/);
    expect(() => deltaRule(q, k, v, beta, { l2Eps: 1e-3 })).toThrow(ConfigError);
    expect(() => deltaRule(q, k, v, beta, { qkL2norm: "yes" } as never)).toThrow(ConfigError);
    expect(() => deltaRule(q, k, v, beta, { scale: NaN })).toThrow(ConfigError);
    expect(() => deltaRule(q, k, v, beta, { layout: "bhds" } as never)).toThrow(ConfigError);
    expect(() => deltaRule(q, k, v, beta, { form: "parallel" } as never)).toThrow(/form is "parallel"/);
    expect(() => deltaRule(q, k, v, beta, { chunkSize: 8 })).toThrow(/chunkSize is 8, form "recurrent"/);
    expect(() => deltaRule(q, k, v, beta, chunks(0))).toThrow(/chunkSize is 0/);
    expect(() => deltaRule(q, k, v, undefined as never)).toThrow(/beta/);
    expect(() => deltaRule(q, k, v, beta, { state: null } as never)).toThrow(/state/);
    expect(() => gatedDeltaRule(q, k, v, random(gpu, [...g.shape, dim], 1), beta)).toThrow(ShapeError);
    expect(() => kda(q, k, v, g, beta)).toThrow(ShapeError);
    expect(() => gatedLinearAttention(q, k, v, g, { qkL2norm: true } as never)).toThrow(/unknown key/);
    expect(() => deltaRule(cast(q, "f16"), k, v, beta)).toThrow(DTypeError);
    expect(() => deltaRule(random(gpu, [batch, 3, tokens, dim], 1), k, v, beta)).toThrow(/multiple/);
    expect(() => deltaRule(q, random(gpu, [batch, 4, tokens, dim], 1), v, beta)).toThrow(/multiple/);
    expect(() => deltaRule(q, k, v, beta, { state: gpu.zeros([batch, heads, valueDim, dim]) })).toThrow(
      ShapeError,
    );
  });
});
