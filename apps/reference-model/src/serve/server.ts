import { once } from "node:events";
import type { Server as HttpServer } from "node:http";
import type { AddressInfo } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import type { Tokenizer } from "@x/tokenizer";
import type { Decoder } from "../model/model.js";
import { createApp } from "./app.js";
import type { Defaults, Service } from "./generation.js";
import { Metrics } from "./metrics.js";
import { CachePool } from "./pool.js";
import { Scheduler } from "./scheduler.js";

export interface ServerOptions {
  readonly name: string;
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  readonly apiKey?: string | undefined;
  /** Texts in one batch. */
  readonly maxBatch: number;
  /** Texts that may wait. */
  readonly queue: number;
  /** Tokens of a text: prompt and continuation. */
  readonly length: number;
  readonly defaults: Defaults;
  readonly chat: Service["chat"];
  readonly onFault: (error: unknown) => void;
}

/** A server that listens. */
export interface Server {
  readonly url: string;
  readonly pool: CachePool;
  /** Refuse new requests, give those that run `grace` milliseconds to end, stop listening and free the caches. */
  close(grace: number): Promise<void>;
}

/** Serve a model over HTTP. @throws ConfigError, and the system's error where the port is taken */
export async function serve(model: Decoder, tokenizer: Tokenizer, options: ServerOptions): Promise<Server> {
  const { name, host, port, maxBatch, queue, length, defaults, chat, apiKey, onFault } = options;
  const pool = new CachePool(model, { rows: maxBatch, length });
  const scheduler = new Scheduler(pool, { queue });
  const metrics = new Metrics(pool, scheduler);
  const created = Math.floor(Date.now() / 1000);
  const parts = { model, tokenizer, pool, scheduler, metrics };
  const service: Service = { name, created, ...parts, defaults, chat, onFault };
  const app = createApp(service, { apiKey });
  const http = createAdaptorServer({ fetch: app.fetch }) as HttpServer;
  try {
    http.listen(port, host);
    // Rejects where the port is taken.
    await once(http, "listening");
  } catch (error) {
    pool.dispose();
    throw error;
  }
  const address = http.address() as AddressInfo;
  const shown = address.family === "IPv6" ? `[${address.address}]` : address.address;
  return {
    url: `http://${shown}:${address.port}`,
    pool,
    close: async (grace) => {
      await scheduler.close(grace);
      const closed = once(http, "close");
      // Answers that are on their way reach their readers; connections that idle are closed.
      http.close();
      const last = setTimeout(() => {
        http.closeAllConnections();
      }, 1000);
      await closed;
      clearTimeout(last);
      pool.dispose();
    },
  };
}
