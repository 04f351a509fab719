import { expect, it } from "vitest";
import { workgroupRaces } from "./workgroup_races.js";

const shader = (body: string, before = ""): string => `
var<workgroup> s: array<f32, 64>;
${before}
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
${body}
}`;
type Case = readonly [what: string, body: string, functions?: string];
const found = (body: string, before?: string): string[] =>
  workgroupRaces(shader(body, before)).map((r) => r.what);

const safe: readonly Case[] = [
  ["each its own element", "s[lane] = 1.0; let x = s[lane];"],
  ["each the parts of its own element", "s[lane][1] = 1.0; let x = s[lane];"],
  ["a barrier between", "s[lane] = 1.0; workgroupBarrier(); let x = s[63u - lane];"],
  [
    "a loop with both barriers",
    "for (var i = 0u; i < 4u; i++) { workgroupBarrier(); s[lane] = 1.0; workgroupBarrier(); let x = s[i]; }",
  ],
  [
    "a reduction",
    "s[lane] = 1.0; for (var h = 32u; h > 0u; h >>= 1u) { workgroupBarrier(); if (lane < h) { s[lane] += s[lane + h]; } } if (lane == 0u) { out[0] = s[0]; }",
  ],
  ["one invocation alone", "if (lane == 0u) { s[0] = 1.0; let x = s[0]; }"],
  [
    "a function that begins with a barrier",
    "let a = total(1.0, lane); let b = total(2.0, lane);",
    "fn total(x: f32, lane: u32) -> f32 { workgroupBarrier(); s[lane] = x; workgroupBarrier(); var t = 0.0; for (var i = 0u; i < 64u; i++) { t += s[i]; } return t; }",
  ],
];
for (const [what, body, functions] of safe)
  it(`passes ${what}`, () => {
    expect(found(body, functions)).toEqual([]);
  });

it.each([
  ["a neighbour's element that was just written", "s[lane] = 1.0; let x = s[lane + 1u];", "write, then read"],
  [
    "one of four cells that other invocations write",
    "for (var c = 0u; c < 4u; c++) { s[c / 4u][c % 4u] = 1.0; } let x = s[lane];",
    "write, then read",
  ],
  ["one writes for all", "if (lane == 0u) { s[0] = 1.0; } let x = s[0];", "write, then read"],
  [
    "an overwrite of what others read",
    "workgroupBarrier(); let x = s[63u - lane]; s[lane] = x;",
    "read, then write",
  ],
  [
    "an overwrite in the next round",
    "for (var i = 0u; i < 4u; i++) { s[lane] = 1.0; workgroupBarrier(); let x = s[i]; }",
    "read, then write",
  ],
  [
    "a barrier on one side of a branch",
    "s[lane] = 1.0; if (n > 1u) { workgroupBarrier(); } let x = s[0];",
    "write, then read",
  ],
  ["a storage barrier alone", "s[lane] = 1.0; storageBarrier(); let x = s[0];", "write, then read"],
])("finds %s", (_, body, what) => {
  expect(found(body)).toContain(what);
});

it("finds a function that is called twice and only ends its first half with a barrier", () => {
  const total = "fn total(x: f32, lane: u32) -> f32 { s[lane] = x; workgroupBarrier(); return s[0]; }";
  expect(found("let a = total(1.0, lane); let b = total(2.0, lane);", total)).toContain("read, then write");
});
