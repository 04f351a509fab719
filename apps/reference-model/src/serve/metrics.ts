import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";
import type { CachePool } from "./pool.js";
import type { Scheduler } from "./scheduler.js";

const PREFIX = "reference_model_";
const SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100];

/** What a server counts, in Prometheus' form. */
export class Metrics {
  readonly registry: Registry = new Registry();
  readonly requests: Counter<"route" | "status">;
  readonly promptTokens: Counter;
  readonly reusedTokens: Counter;
  readonly generatedTokens: Counter;
  readonly cancelled: Counter;
  readonly firstToken: Histogram;
  readonly duration: Histogram;

  constructor(pool: CachePool, scheduler: Scheduler) {
    const { registry } = this;
    const registers = [registry];
    collectDefaultMetrics({ register: registry });
    const counter = (name: string, help: string): Counter =>
      new Counter({ name: `${PREFIX}${name}_total`, help, registers });
    const gauge = (name: string, help: string, value: () => number): void => {
      new Gauge({
        name: `${PREFIX}${name}`,
        help,
        registers,
        collect() {
          this.set(value());
        },
      });
    };
    this.requests = new Counter({
      name: `${PREFIX}requests_total`,
      help: "Requests by route and status.",
      labelNames: ["route", "status"],
      registers,
    });
    this.promptTokens = counter("prompt_tokens", "Tokens of prompts.");
    this.reusedTokens = counter("reused_tokens", "Tokens of prompts whose cache was in the pool.");
    this.generatedTokens = counter("generated_tokens", "Tokens drawn.");
    this.cancelled = counter("cancelled", "Requests whose client hung up.");
    this.firstToken = new Histogram({
      name: `${PREFIX}first_token_seconds`,
      help: "Time from a request to its first token.",
      buckets: SECONDS,
      registers,
    });
    this.duration = new Histogram({
      name: `${PREFIX}request_seconds`,
      help: "Time from a request to its last token.",
      buckets: SECONDS,
      registers,
    });
    gauge("waiting", "Texts that wait for a row.", () => scheduler.waiting);
    gauge("running", "Texts that run.", () => scheduler.running);
    gauge("rows", "Rows of the batch.", () => pool.rows);
  }
}
