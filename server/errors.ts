/**
 * One table of every error a client can meet: code → HTTP status, OpenAI error type. The sentence is the thrower's: what was
 * expected, what came, what to do.
 */
export const ERROR_CODES = {
  invalid_request: { status: 400, type: 'invalid_request_error' },
  invalid_header: { status: 400, type: 'invalid_request_error' },
  invalid_task_name: { status: 400, type: 'invalid_request_error' },
  context_length_exceeded: { status: 400, type: 'invalid_request_error' },
  unsupported: { status: 400, type: 'invalid_request_error' },
  invalid_mask: { status: 400, type: 'invalid_request_error' },
  wrong_base: { status: 400, type: 'invalid_request_error' },
  digest_mismatch: { status: 400, type: 'invalid_request_error' },
  reserved_task: { status: 400, type: 'invalid_request_error' },
  invalid_api_key: { status: 401, type: 'authentication_error' },
  permission_denied: { status: 403, type: 'permission_error' },
  foreign_origin: { status: 403, type: 'permission_error' },
  not_found: { status: 404, type: 'not_found_error' },
  task_not_found: { status: 404, type: 'not_found_error' },
  model_not_found: { status: 404, type: 'not_found_error' },
  version_not_found: { status: 404, type: 'not_found_error' },
  method_not_allowed: { status: 405, type: 'invalid_request_error' },
  request_timeout: { status: 408, type: 'invalid_request_error' },
  read_only_task: { status: 409, type: 'invalid_request_error' },
  precondition_failed: { status: 412, type: 'invalid_request_error' },
  body_too_large: { status: 413, type: 'invalid_request_error' },
  unsupported_media_type: { status: 415, type: 'invalid_request_error' },
  queue_full: { status: 429, type: 'rate_limit_error' },
  internal_error: { status: 500, type: 'server_error' },
  mask_corrupt: { status: 503, type: 'server_error' },
  out_of_memory: { status: 503, type: 'server_error' },
  shutting_down: { status: 503, type: 'server_error' },
  store_failed: { status: 503, type: 'server_error' },
  disk_full: { status: 507, type: 'server_error' },
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/** An error with a place in the table; anything else that reaches the HTTP layer is an internal_error. */
export class ServerError extends Error {
  readonly status: number;
  readonly type: string;

  constructor(
    readonly code: ErrorCode,
    message: string,
    readonly options: { param?: string; retryAfterSeconds?: number; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ServerError';
    this.status = ERROR_CODES[code].status;
    this.type = ERROR_CODES[code].type;
  }
}
