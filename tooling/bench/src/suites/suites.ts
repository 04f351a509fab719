import type { Gpu } from "@x/kernels";

/** A table of its own, for one family of components: `npm run bench -- --suite NAME`. */
export interface Suite {
  /** One sentence for the help. */
  readonly description: string;
  /** Measure on an open device and print through `say`; what is returned is written as JSON. */
  readonly run: (
    gpu: Gpu,
    options: { readonly quick: boolean; readonly filter: string; readonly say: (line: string) => void },
  ) => Promise<unknown>;
}

/** Suites by name, each loaded when asked for. To add one, write its file and a line here. */
export const SUITES: Readonly<Record<string, () => Promise<Suite>>> = {
  norms: async () => {
    const { normBench, showNormRows } = await import("./norms.js");
    return {
      description: "norms and RoPE against a copy, and norms inside a training step",
      run: async (gpu, { quick, say }) => {
        const rows = await normBench(gpu, { rounds: quick ? 3 : 11 });
        say(showNormRows(rows));
        return rows;
      },
    };
  },
  patterns: async () => {
    const { benchPatterns, showPatterns } = await import("./attention_patterns.js");
    return {
      description: "sparse attention: time against visited blocks, memory of long sequences, decoding",
      run: async (gpu, { quick, say }) => {
        const [lengths, repeat] = quick ? [[4096], 2] : [[4096, 8192], 3];
        const contexts = [256, 1024, 4096, 16384];
        const report = await benchPatterns(gpu, { lengths, memory: [2048, 8192], contexts, repeat });
        say(showPatterns(report));
        return report;
      },
    };
  },
  caches: async () => {
    const { benchCaches, showCaches } = await import("./caches.js");
    return {
      description: "bytes of caches, decoding time against context, YOCO's prefill against a plain decoder's",
      run: async (gpu, { quick, say }) => {
        const report = await benchCaches(gpu, { repeats: quick ? 2 : 5 });
        say(showCaches(report));
        return report;
      },
    };
  },
  ffn: async () => (await import("./ffn.js")).suite,
  moe: async () => (await import("./moe.js")).suite,
};
