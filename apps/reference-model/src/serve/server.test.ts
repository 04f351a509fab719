import { fileURLToPath } from "node:url";
import OpenAI, { APIError } from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import type { Tokenizer } from "@x/tokenizer";
import { ChatTemplate } from "../chat/template.js";
import { loadCheckpoint } from "../checkpoint/load.js";
import { generate } from "../model/generate.js";
import type { CausalLM, Decoder } from "../model/model.js";
import { serve, type Server, type ServerOptions } from "./server.js";
import { byteTokenizer } from "./test-support.js";

const FOLDER = fileURLToPath(new URL("../../../../tooling/fixtures/models/llama", import.meta.url));

const TEMPLATE =
  "{% if messages[0].role != 'user' %}{{ raise_exception('the user begins') }}{% endif %}" +
  "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}<assistant>";

/** An error of the API, as the client has it. */
interface Refused {
  readonly status: number;
  readonly code: string | null | undefined;
  readonly param: string | null | undefined;
  readonly headers: Headers;
}

async function refused(call: PromiseLike<unknown>): Promise<Refused> {
  try {
    await call;
  } catch (error) {
    if (error instanceof APIError) return error as Refused;
    throw error;
  }
  throw new Error("the call was not refused");
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5));
}

describe("the server", () => {
  const device = useGpu();
  let tokenizer: Tokenizer;
  let model: CausalLM;
  let server: Server;
  let client: OpenAI;
  const faults: unknown[] = [];

  const options: ServerOptions = {
    ...{ name: "tiny", host: "127.0.0.1", port: 0, maxBatch: 4, queue: 64, length: 128 },
    defaults: { temperature: 1, topP: 1, maxTokens: 16 },
    chat: new ChatTemplate("test", TEMPLATE),
    onFault: (error) => faults.push(error),
  };
  const clientOf = ({ url }: Server, apiKey = "none"): OpenAI =>
    new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
  const withServer = async (
    change: Partial<ServerOptions>,
    use: (server: Server) => Promise<void>,
  ): Promise<void> => {
    const own = await serve(model, tokenizer, { ...options, ...change });
    try {
      await use(own);
    } finally {
      await own.close(0);
    }
  };
  const health = async ({ url }: Server): Promise<{ running: number; waiting: number }> =>
    (await (await fetch(`${url}/health`)).json()) as { running: number; waiting: number };
  /** The client's types call the parameter deprecated, since OpenAI's own service does not keep to it. */
  const seeded = { seed: 7 };
  const greedy = { model: "tiny", temperature: 0, max_tokens: 20 } as const;
  const text = async (prompt: string, more: object = {}): Promise<string> =>
    (await client.completions.create({ ...greedy, prompt, ...more })).choices[0]!.text;

  beforeAll(async () => {
    tokenizer = await byteTokenizer();
    ({ model } = await loadCheckpoint(device.gpu, FOLDER));
    server = await serve(model, tokenizer, options);
    client = clientOf(server);
  });
  afterAll(async () => {
    await server.close(0);
    model.dispose();
  });

  it("lists its model, and answers as the model does alone", async () => {
    expect((await client.models.list()).data.map(({ id }) => id)).toEqual(["tiny"]);
    expect((await client.models.retrieve("tiny")).object).toBe("model");
    const prompt = tokenizer.encode("Hello");
    const alone = await generate(model, prompt, { maxNewTokens: 20, temperature: 0 }, tokenizer);
    for (const given of ["Hello", prompt]) {
      const answer = await client.completions.create({ ...greedy, prompt: given, echo: true });
      expect(answer.choices[0]!.text).toBe(`Hello${alone.text}`);
      expect(answer.choices[0]!.finish_reason).toBe(alone.reason === "length" ? "length" : "stop");
      expect(answer.usage).toMatchObject({
        prompt_tokens: 5,
        completion_tokens: alone.ids.length,
        total_tokens: 5 + alone.ids.length,
      });
    }
  });

  it("begins a new text where the prompt is empty, and takes several prompts at once", async () => {
    const texts = await Promise.all([[1], tokenizer.encode("abc")].map((ids) => text(tokenizer.decode(ids))));
    const answer = await client.completions.create({ ...greedy, prompt: ["", "abc"], n: 1 });
    expect(answer.choices.map((choice) => choice.text)).toEqual(texts);
    expect(answer.usage!.prompt_tokens).toBe(4);
  });

  it("streams the same text, with the tokens counted at the end", async () => {
    const whole = await text("abc");
    const stream = await client.completions.create({
      ...{ ...greedy, prompt: "abc", stream: true },
      stream_options: { include_usage: true },
    });
    let streamed = "";
    const finish: unknown[] = [];
    let usage: unknown;
    for await (const { choices, usage: counted } of stream) {
      for (const choice of choices) {
        streamed += choice.text;
        if ((choice.finish_reason as string | null) !== null) finish.push(choice.finish_reason);
      }
      if (choices.length === 0) usage = counted;
    }
    expect(streamed).toBe(whole);
    expect(finish).toEqual(["length"]);
    expect(usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 20 });
  });

  it("ends before a stop string that lies across tokens, also in a stream", async () => {
    const whole = await text("stop here");
    const stop = whole.slice(6, 9);
    const cut = whole.slice(0, whole.indexOf(stop));
    const answer = await client.completions.create({ ...greedy, prompt: "stop here", stop, logprobs: 1 });
    expect(answer.choices[0]).toMatchObject({ text: cut, finish_reason: "stop" });
    // Tokens of the stop string are not among the tokens of the text.
    expect(answer.choices[0]!.logprobs!.text_offset!.every((at) => at < cut.length)).toBe(true);
    let streamed = "";
    const stream = await client.completions.create({
      ...{ ...greedy, prompt: "stop here", stream: true },
      stop: ["never said", stop],
    });
    for await (const { choices } of stream) streamed += choices[0]!.text;
    expect(streamed).toBe(cut);
  });

  it("chats by the template, with logprobs and several choices", async () => {
    const answer = await client.chat.completions.create({
      ...{ model: "tiny", ...seeded, n: 3, logprobs: true, top_logprobs: 4, max_completion_tokens: 6 },
      messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }],
    });
    expect(answer.choices.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(new Set(answer.choices.map(({ message }) => message.content)).size).toBeGreaterThan(1);
    expect(answer.usage).toMatchObject({
      prompt_tokens: "<user>Hi<assistant>".length,
      completion_tokens: 18,
    });
    for (const { top_logprobs: top, logprob } of answer.choices[0]!.logprobs!.content!) {
      expect(top).toHaveLength(4);
      const values = top.map((one) => one.logprob);
      expect(values).toEqual([...values].sort((a, b) => b - a));
      expect(logprob).toBeLessThanOrEqual(values[0]!);
      expect(values.reduce((sum, x) => sum + Math.exp(x), 0)).toBeLessThanOrEqual(1 + 1e-6);
    }
    const stream = await client.chat.completions.create({
      ...{ model: "tiny", ...seeded, stream: true, max_completion_tokens: 6 },
      messages: [{ role: "user", content: "Hi" }],
    });
    let streamed = "";
    for await (const { choices } of stream) streamed += choices[0]!.delta.content ?? "";
    expect(streamed).toBe(answer.choices[0]!.message.content);
    const wrong = client.chat.completions.create({
      model: "tiny",
      messages: [{ role: "system", content: "Hi" }],
    });
    expect(await refused(wrong)).toMatchObject({ status: 400, param: "messages" });
    await withServer({ chat: undefined }, async (own) => {
      const call = clientOf(own).chat.completions.create({
        model: "tiny",
        messages: [{ role: "user", content: "Hi" }],
      });
      expect(await refused(call)).toMatchObject({ status: 400, code: "no_chat_template" });
    });
  });

  it("biases and penalties decide what is drawn", async () => {
    expect(await text("x", { logit_bias: { 65: 100 }, max_tokens: 4 })).toBe("AAAA");
    // The greatest presence penalty is less than the bias; repeated ids lose by the frequency penalty.
    const bias = { 65: 100, 66: 99 };
    expect(await text("x", { logit_bias: bias, frequency_penalty: 2, max_tokens: 4 })).toContain("B");
    expect(await text("x", { logit_bias: { 65: 100 }, top_p: 0, temperature: 2, max_tokens: 2 })).toBe("AA");
  });

  it("answers 32 clients at a time as it answers each alone, and keeps no memory", async () => {
    const ask = (i: number): Promise<string> =>
      text(`client ${i} ${"asks ".repeat(i % 9)}`, { seed: i, temperature: i % 2, max_tokens: 6 + (i % 5) });
    const all = Array.from({ length: 32 }, (_, i) => i);
    const got = await Promise.all(all.map(ask));
    const bytes = device.gpu.memory().liveBytes;
    for (const i of [0, 1, 2, 13, 30, 31]) expect(await ask(i), `client ${i}`).toBe(got[i]);
    expect(device.gpu.memory().liveBytes).toBe(bytes);
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    expect(metrics).toMatch(/reference_model_requests_total\{route="\/v1\/completions",status="200"\} \d/);
    expect(metrics).toMatch(/reference_model_running 0/);
  });

  it("runs only what is new of a prompt", async () => {
    const prompt = "A beginning that was read before";
    const once = await client.completions.create({ ...greedy, prompt });
    const again = await client.completions.create({ ...greedy, prompt: prompt + once.choices[0]!.text });
    expect(once.usage!.prompt_tokens_details!.cached_tokens).toBeLessThan(3);
    expect(again.usage!.prompt_tokens_details!.cached_tokens).toBeGreaterThanOrEqual(prompt.length);
  });

  it("frees the row of a client that hangs up", async () => {
    const long = { ...greedy, prompt: "x", max_tokens: 120, logit_bias: { 65: 100 } };
    const stream = await client.completions.create({ ...long, stream: true });
    for await (const { choices } of stream) if (choices[0]!.text !== "") break;
    await until(async () => (await health(server)).running === 0);
    const control = new AbortController();
    const waiting = client.completions
      .create(long, { signal: control.signal })
      .catch((error: unknown) => error);
    await until(async () => (await health(server)).running === 1);
    control.abort();
    expect(await waiting).toBeInstanceOf(Error);
    await until(async () => (await health(server)).running === 0);
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    expect(metrics).toMatch(/reference_model_cancelled_total 2/);
    expect(faults).toEqual([]);
  });

  it.each([
    [{ prompt: [] }, "prompt", undefined],
    [{ prompt: [256] }, "prompt", undefined],
    [{ prompt: "x".repeat(128) }, "prompt", "context_length_exceeded"],
    [{ prompt: "x", temperature: 3 }, "temperature", undefined],
    [{ prompt: "x", n: 100 }, "n", undefined],
    [{ prompt: "x", stop: "" }, "stop", undefined],
    [{ prompt: "x", logit_bias: { 300: 1 } }, "logit_bias", undefined],
    [{ prompt: "x", suffix: "y" }, "suffix", "unsupported_parameter"],
    [{ prompt: "x", echo: true, logprobs: 1 }, "echo", "unsupported_value"],
    [{ prompt: "x", stream_options: {} }, "stream_options", undefined],
  ])("refuses %j with status 400 and names the parameter", async (change, param, code) => {
    const call = client.completions.create({ model: "tiny", ...change } as OpenAI.CompletionCreateParams);
    expect(await refused(call)).toMatchObject({
      status: 400,
      param,
      ...(code === undefined ? {} : { code }),
    });
  });

  it("refuses other models, routes, methods, bodies, tools and keys in OpenAI's form", async () => {
    const other = client.completions.create({ model: "other", prompt: "x" });
    expect(await refused(other)).toMatchObject({ status: 404, code: "model_not_found" });
    expect(await refused(client.embeddings.create({ model: "tiny", input: "x" }))).toMatchObject({
      status: 404,
    });
    const tools = [{ type: "function", function: { name: "f" } }] as const;
    const messages = [{ role: "user", content: "x" }] as const;
    const tooled = client.chat.completions.create({
      model: "tiny",
      messages: [...messages],
      tools: [...tools],
    });
    expect(await refused(tooled)).toMatchObject({ status: 400, param: "tools" });
    const url = `${server.url}/v1/completions`;
    expect((await fetch(url)).status).toBe(405);
    const broken = await fetch(url, { method: "POST", body: "{" });
    expect(broken.status).toBe(400);
    expect(await broken.json()).toMatchObject({ error: { code: "invalid_json", param: null } });
    await withServer({ apiKey: "secret" }, async (own) => {
      for (const key of ["wrong", "secre"])
        expect(await refused(clientOf(own, key).models.list())).toMatchObject({
          status: 401,
          code: "invalid_api_key",
        });
      expect((await clientOf(own, "secret").models.list()).data).toHaveLength(1);
      expect((await fetch(`${own.url}/health`)).status).toBe(200);
    });
  });

  it("a full queue refuses with 429 and Retry-After, and takes requests again later", async () => {
    await withServer({ maxBatch: 1, queue: 1 }, async (own) => {
      const one = clientOf(own);
      const ask = (): Promise<unknown> =>
        one.completions.create({ ...greedy, prompt: "x", max_tokens: 60, logit_bias: { 65: 100 } });
      const taken = [ask(), ask()];
      await until(async () => {
        const { running, waiting } = await health(own);
        return running === 1 && waiting === 1;
      });
      const over = await refused(ask());
      expect(over).toMatchObject({ status: 429, code: "rate_limit_exceeded" });
      expect(over.headers.get("retry-after")).toBe("1");
      await Promise.all(taken);
      await ask();
    });
  });

  it("a shutdown lets running requests end, refuses new ones with 503, and cuts off what is late", async () => {
    const before = device.gpu.memory().liveBytes;
    const long = { ...greedy, prompt: "x", max_tokens: 100, logit_bias: { 65: 100 } };
    const own = await serve(model, tokenizer, options);
    const one = clientOf(own);
    const running = one.completions.create(long);
    await until(async () => (await health(own)).running === 1);
    const closing = own.close(20_000);
    expect(await refused(one.completions.create(long))).toMatchObject({ status: 503, code: "shutting_down" });
    expect((await fetch(`${own.url}/health`)).status).toBe(503);
    expect((await running).choices[0]!.text).toBe("A".repeat(100));
    await closing;
    await expect(fetch(`${own.url}/health`)).rejects.toThrow();

    const cut = await serve(model, tokenizer, options);
    const stream = await clientOf(cut).completions.create({ ...long, stream: true });
    const read = async (): Promise<void> => {
      for await (const { choices } of stream) if (choices[0]!.text !== "") void cut.close(0);
    };
    await expect(read()).rejects.toThrow(/shut down/);
    await until(() => device.gpu.memory().liveBytes === before);
  });

  it("a model that fails ends what runs with an error, and refuses what comes", async () => {
    const lost = (): never => {
      throw new Error("the device is lost");
    };
    const { gpu, config, positions, context } = model;
    const failing: Decoder = {
      ...{ gpu, config, positions, context, hidden: lost, head: lost, forward: lost },
      // Rows that depend on each other run nothing before the first request.
      changes: () => true,
      createState: (state) => model.createState(state),
    };
    const own = await serve(failing, tokenizer, options);
    try {
      const one = clientOf(own);
      const call = one.completions.create({ ...greedy, prompt: "x" });
      expect(await refused(call)).toMatchObject({ status: 500, code: "internal_error" });
      expect(String(faults.pop())).toContain("the device is lost");
      const next = one.completions.create({ ...greedy, prompt: "x" });
      expect(await refused(next)).toMatchObject({ status: 503, code: "model_failed" });
      expect((await fetch(`${own.url}/health`)).status).toBe(503);
    } finally {
      await own.close(0);
    }
  });

  it("a port that is taken is an error, and nothing stays behind", async () => {
    const before = device.gpu.memory().liveBytes;
    const port = Number(new URL(server.url).port);
    await expect(serve(model, tokenizer, { ...options, port })).rejects.toThrow(/EADDRINUSE/);
    expect(device.gpu.memory().liveBytes).toBe(before);
  });
});
