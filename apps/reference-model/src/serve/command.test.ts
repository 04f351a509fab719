import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));

describe("the command serve", () => {
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "x-serve-"));
    writeFileSync(join(folder, "template.jinja"), "{% for m in messages %}{{ m.content }}{% endfor %}");
  });
  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
  });

  it("serves the bundled model with a template, ends what runs at SIGTERM, and ends with its code", async () => {
    const options = ["--port", "0", "--api-key", "secret", "--max-batch", "2"];
    const template = ["--chat-template", join(folder, "template.jinja")];
    const child = spawn(process.execPath, [cli, "serve", ...options, ...template], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    let printed = "";
    let said = "";
    const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
    child.stderr.on("data", (data: Buffer) => (said += data.toString()));
    const baseURL = await new Promise<string>((resolve, reject) => {
      child.stdout.on("data", (data: Buffer) => {
        printed += data.toString();
        const url = /serving stories at (\S+) on/.exec(printed)?.[1];
        if (url !== undefined) resolve(url);
      });
      void ended.then(() => {
        reject(new Error(`the server has ended: ${said}`));
      });
    });
    const client = new OpenAI({ baseURL, apiKey: "secret", maxRetries: 0 });
    const request = { model: "stories", temperature: 0, stream: true, logit_bias: { 767: -100 } } as const;
    const once = await client.chat.completions.create({
      ...{ ...request, stream: false, max_completion_tokens: 60 },
      messages: [{ role: "user", content: "Once upon a time" }],
    });
    const stream = await client.completions.create({
      ...request,
      prompt: "Once upon a time",
      max_tokens: 60,
    });
    let text = "";
    let finish: unknown;
    for await (const { choices } of stream) {
      if (text === "") child.kill("SIGTERM");
      text += choices[0]!.text;
      finish = choices[0]!.finish_reason;
    }
    expect(finish).toBe("length");
    expect(text).toBe(once.choices[0]!.message.content);
    expect(await ended).toBe(143);
    expect(said).toContain("shutting down");
  });
});
