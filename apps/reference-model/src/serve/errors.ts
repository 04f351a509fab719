import { RefusedError } from "./scheduler.js";

type Status = 400 | 401 | 404 | 405 | 413 | 429 | 500 | 503;

/** The body of an error as OpenAI's API has it. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
}

const TYPES: Readonly<Record<Status, string>> = {
  400: "invalid_request_error",
  401: "invalid_request_error",
  404: "invalid_request_error",
  405: "invalid_request_error",
  413: "invalid_request_error",
  429: "rate_limit_error",
  500: "server_error",
  503: "server_error",
};

/** An error that a client is told, with its status. */
export class ApiError extends Error {
  readonly status: Status;
  readonly param: string | null;
  readonly code: string | null;

  constructor(status: Status, message: string, { param, code }: { param?: string; code?: string } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.param = param ?? null;
    this.code = code ?? null;
  }

  get body(): ErrorBody {
    const { message, status, param, code } = this;
    return { error: { message, type: TYPES[status], param, code } };
  }
}

const CODES = {
  "queue full": [429, "rate_limit_exceeded"],
  "shutting down": [503, "shutting_down"],
  failed: [503, "model_failed"],
} as const;

/** Any error as one that a client can be told; a fault of the server keeps its details to itself. */
export function apiErrorOf(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof RefusedError) {
    const [status, code] = CODES[error.reason];
    return new ApiError(status, error.message, { code });
  }
  return new ApiError(500, "the server has failed to answer the request", { code: "internal_error" });
}
