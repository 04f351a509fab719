import { describe, expect, it } from "vitest";
import { FormatError } from "@x/kernels";
import { loadChatTemplate, type ChatTemplate } from "./template.js";

const load = (files: Record<string, unknown>): Promise<ChatTemplate | undefined> =>
  loadChatTemplate((name) => {
    const file = files[name];
    return Promise.resolve(file === undefined || typeof file === "string" ? file : JSON.stringify(file));
  });

const CHATML = `{{ bos_token }}{% for message in messages %}
{% if message.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`;

const talk = [
  { role: "system", content: "Be brief." },
  { role: "user", content: " Hi {{ bos_token }} " },
];
const written =
  "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi {{ bos_token }}<|im_end|>\n<|im_start|>assistant\n";

describe("chat templates", () => {
  it("are read from each of their places, and write a conversation up to the answer", async () => {
    const bos = { bos_token: { content: "<s>" } };
    for (const files of [
      { "tokenizer_config.json": { bos_token: "<s>", chat_template: CHATML } },
      { "tokenizer_config.json": { ...bos, chat_template: "old" }, "chat_template.jinja": CHATML },
      {
        "special_tokens_map.json": bos,
        "tokenizer_config.json": {
          chat_template: [
            { name: "tool_use", template: "tools" },
            { name: "default", template: CHATML },
          ],
        },
      },
    ])
      expect((await load(files))!.render(talk)).toBe(written);
    expect(await load({ "tokenizer_config.json": { bos_token: "<s>" } })).toBeUndefined();
    expect(await load({})).toBeUndefined();
  });

  it("say what is wrong with them, and what they refuse", async () => {
    await expect(load({ "chat_template.jinja": "{% if %}" })).rejects.toThrow(/chat_template.jinja.*parsed/);
    await expect(load({ "tokenizer_config.json": "{" })).rejects.toThrow(FormatError);
    await expect(load({ "special_tokens_map.json": [] })).rejects.toThrow(/special_tokens_map.json/);
    const template = (await load({ "chat_template.jinja": CHATML }))!;
    expect(() => template.render([{ role: "tool", content: "x" }])).toThrow(/no tools/);
  });
});
