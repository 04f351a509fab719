import { Hono, type Context, type MiddlewareHandler } from "hono";
import { bearerAuth } from "hono/bearer-auth";
import { bodyLimit } from "hono/body-limit";
import { HTTPException } from "hono/http-exception";
import { chatCompletions } from "./chat.js";
import { completions } from "./completions.js";
import { ApiError, apiErrorOf } from "./errors.js";
import type { Service } from "./generation.js";

/** Bytes of a request's body at most. */
const MAX_BODY = 16 * 2 ** 20;
/** Seconds after which a client that was refused for want of room may try again. */
const RETRY_AFTER = "1";

export interface AppOptions {
  /** Clients must send it as `Authorization: Bearer KEY`; undefined lets anyone in. */
  readonly apiKey?: string | undefined;
}

async function bodyOf(c: Context): Promise<unknown> {
  try {
    return await c.req.json();
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new ApiError(400, `the body is not JSON: ${cause.message}`, { code: "invalid_json" });
  }
}

function key(apiKey: string): MiddlewareHandler {
  const { body } = new ApiError(
    401,
    "the API key is missing or wrong; it is sent as Authorization: Bearer KEY",
    {
      code: "invalid_api_key",
    },
  );
  const refusal = (): Response =>
    Response.json(body, { status: 401, headers: { "WWW-Authenticate": "Bearer" } });
  const told = { message: refusal };
  return bearerAuth({
    token: apiKey,
    noAuthenticationHeader: told,
    invalidAuthenticationHeader: told,
    invalidToken: told,
  });
}

/** The routes of the server. */
export function createApp(service: Service, { apiKey }: AppOptions): Hono {
  const { metrics, scheduler, pool, onFault } = service;
  const app = new Hono();
  const told = (c: Context, error: unknown): Response => {
    // Nobody reads the answer; the status, which web servers use for that, is for the metrics.
    if (c.req.raw.signal.aborted) return new Response(null, { status: 499 });
    const known = apiErrorOf(error);
    if (known.status === 500) onFault(error);
    if (known.status === 429 || known.status === 503) c.header("Retry-After", RETRY_AFTER);
    return c.json(known.body, known.status);
  };
  // The middleware for keys throws its answer.
  app.onError((error, c) => (error instanceof HTTPException ? error.getResponse() : told(c, error)));
  app.notFound((c) =>
    told(
      c,
      new ApiError(404, `${c.req.method} ${c.req.path}: there is no such route`, { code: "unknown_url" }),
    ),
  );
  app.use(async (c, next) => {
    await next();
    // Paths of clients' own making would be series without end.
    const route = ROUTES.includes(c.req.path) ? c.req.path : "other";
    metrics.requests.inc({ route, status: String(c.res.status) });
  });

  app.get("/health", (c) => {
    const { refusal } = scheduler;
    const status = refusal?.reason ?? "ok";
    const { running, waiting } = scheduler;
    return c.json({ status, running, waiting, rows: pool.rows }, refusal ? 503 : 200);
  });
  app.get("/metrics", async (c) =>
    c.body(await metrics.registry.metrics(), 200, { "Content-Type": metrics.registry.contentType }),
  );

  if (apiKey !== undefined) app.use("/v1/*", key(apiKey));
  app.use(
    "/v1/*",
    bodyLimit({
      maxSize: MAX_BODY,
      onError: (c) =>
        told(
          c,
          new ApiError(413, `the body is larger than ${MAX_BODY} bytes`, { code: "request_too_large" }),
        ),
    }),
  );
  const description = {
    id: service.name,
    object: "model",
    created: service.created,
    owned_by: "reference-model",
  };
  const expectModel = (asked: unknown): void => {
    if (typeof asked === "string" && asked !== service.name)
      throw new ApiError(
        404,
        `model: there is no ${JSON.stringify(asked)}; this server has ${service.name}`,
        {
          param: "model",
          code: "model_not_found",
        },
      );
  };
  app.get("/v1/models", (c) => c.json({ object: "list", data: [description] }));
  app.get("/v1/models/:id{.+}", (c) => {
    expectModel(c.req.param("id"));
    return c.json(description);
  });
  for (const [path, handle] of [
    [COMPLETIONS, completions],
    [CHAT, chatCompletions],
  ] as const) {
    app.post(path, async (c) => {
      if (scheduler.refusal) throw scheduler.refusal;
      const body = await bodyOf(c);
      expectModel((body as { model?: unknown } | null)?.model);
      return handle(c, service, body);
    });
    app.all(path, (c) =>
      told(
        c,
        new ApiError(405, `${c.req.method} ${path}: the route takes POST`, { code: "method_not_allowed" }),
      ),
    );
  }
  return app;
}

const COMPLETIONS = "/v1/completions";
const CHAT = "/v1/chat/completions";
const ROUTES: readonly string[] = ["/health", "/metrics", "/v1/models", COMPLETIONS, CHAT];
