import { readFileSync } from "node:fs";
import { it } from "vitest";
import { loadTokenizer } from "./index.js";
it("orc", async () => {
  for (const [name, json, cases] of JSON.parse(readFileSync("/tmp/tok/orc.json", "utf8"))) {
    let n = 0, bad = 0;
    try {
      const t = await loadTokenizer((f) => Promise.resolve(f === "tokenizer.json" ? JSON.stringify(json) : undefined));
      const cmp = (what: string, x: unknown, got: () => unknown, want: unknown) => {
        n++; let g: unknown; try { g = got(); } catch (e) { g = String(e); }
        if (JSON.stringify(g) !== JSON.stringify(want) && bad++ < 4) console.log(name, what, JSON.stringify(x), "\n  got ", JSON.stringify(g), Array.isArray(g) ? g.map((i) => t.idToToken(i)).join("|") : "", "\n  want", JSON.stringify(want), Array.isArray(want) ? want.map((i) => t.idToToken(i)).join("|") : "");
      };
      for (const [x, e, pl, nn, d, ds] of cases) {
        if (x !== null) {
          cmp("encode", x, () => t.encode(x), e);
          cmp("plain", x, () => t.encode(x, { allowedSpecial: "none" }), pl);
          cmp("nospec", x, () => t.encode(x, { addSpecialTokens: false }), nn);
        }
        cmp("decode", nn, () => t.decode(nn), d);
        cmp("skip", nn, () => t.decode(nn, { skipSpecialTokens: true }), ds);
        cmp("stream", nn, () => { const s = t.decoder(); return nn.map((i: number) => s.push(i)).join("") + s.end(); }, d);
        
      }
    } catch (e) { console.log(name, String(e)); bad++; }
    console.log(name, n, "bad", bad);
  }
}, 60000);
