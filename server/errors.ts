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
  job_not_found: { status: 404, type: 'not_found_error' },
  method_not_allowed: { status: 405, type: 'invalid_request_error' },
  request_timeout: { status: 408, type: 'invalid_request_error' },
  read_only_task: { status: 409, type: 'invalid_request_error' },
  parent_unknown: { status: 409, type: 'invalid_request_error' },
  parent_needed: { status: 409, type: 'invalid_request_error' },
  precondition_failed: { status: 412, type: 'invalid_request_error' },
  body_too_large: { status: 413, type: 'invalid_request_error' },
  unsupported_media_type: { status: 415, type: 'invalid_request_error' },
  range_not_satisfiable: { status: 416, type: 'invalid_request_error' },
  queue_full: { status: 429, type: 'rate_limit_error' },
  internal_error: { status: 500, type: 'server_error' },
  mask_corrupt: { status: 503, type: 'server_error' },
  out_of_memory: { status: 503, type: 'server_error' },
  shutting_down: { status: 503, type: 'server_error' },
  store_failed: { status: 503, type: 'server_error' },
  disk_full: { status: 507, type: 'server_error' },
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/** When a client meets each: the last column of the README's table, which a test ties to this one. */
export const ERROR_MEANINGS: Readonly<Record<ErrorCode, string>> = {
  invalid_request: 'the body is not JSON, or a field has the wrong type or range; `param` names it',
  invalid_header: "a header such as `X-Task`, `If-Match` or `Repr-Digest` can't be read",
  invalid_task_name: 'a task is to be published under a name that is no task name',
  context_length_exceeded:
    'prompt and `max_tokens` together are longer than the context, or need more cache than `--kv-bytes`',
  unsupported: 'an OpenAI field that would change the meaning and is not implemented; `param` names it',
  invalid_mask: 'the uploaded bytes are no valid mask container',
  wrong_base: 'the mask was made for other base weights',
  digest_mismatch: 'the bytes do not have the digest that was declared for them',
  reserved_task: "`dense` is the unmasked base and can't be published, rolled back or deleted",
  invalid_api_key: 'keys are configured and the request carries none, or an unknown one',
  permission_denied: 'the key may not do this',
  foreign_origin:
    'no keys are configured and the request names a foreign `Host` or comes from a page of another origin',
  not_found: 'no such endpoint',
  task_not_found: 'no such task, or none that this key may use',
  model_not_found: '`model` names another model than the one served',
  version_not_found: 'the task never had this version',
  job_not_found: 'no such training job, or one of a task that this key may not publish',
  method_not_allowed: 'the endpoint exists, the method does not; see the `Allow` header',
  request_timeout: 'the body arrived too slowly, or the request ran longer than `--request-timeout`',
  read_only_task: 'a task that ships with the model can be overridden, not changed',
  parent_unknown:
    'the uploaded mask is coded against a parent that the store does not have; publish the parent first, or upload it flattened',
  parent_needed: 'other masks are coded against a version of the task that is to be deleted; the message names them',
  precondition_failed: '`If-Match` or `If-None-Match` did not hold: somebody else published in between',
  body_too_large: 'the body is larger than `--max-body-bytes`, `--max-mask-bytes` or `--max-train-bytes`',
  unsupported_media_type: 'the body has a `Content-Type` or `Content-Encoding` that is not read here',
  range_not_satisfiable: '`Range` starts beyond the end of the mask',
  queue_full: 'too many sequences, or training jobs, wait; `Retry-After` says when to come back',
  internal_error: 'a defect of the server; the log has it under the `X-Request-Id`',
  mask_corrupt: 'the stored mask fails its checks; publish it again or roll back',
  out_of_memory: 'the task does not fit in `--cache-bytes`',
  shutting_down: 'the server is draining',
  store_failed: 'the disk under `--store` fails',
  disk_full: 'the disk under `--store` is full',
};

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

/** The README's table of errors, between its markers: paste it there after a change of the table above. */
export function errorTable(): string {
  const rows = Object.entries(ERROR_CODES).map(
    ([code, { status, type }]) => `| \`${code}\` | ${status} | \`${type}\` | ${ERROR_MEANINGS[code as ErrorCode]} |`,
  );
  return ['| code | status | type | when |', '| --- | --- | --- | --- |', ...rows].join('\n');
}

/** OpenAI's error body: what every client library turns into its typed errors. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: ErrorCode;
  };
}

export function errorBody(error: ServerError): ErrorBody {
  const { message, type, code, options } = error;
  return { error: { message, type, param: options.param ?? null, code } };
}
