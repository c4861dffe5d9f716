/** One class for everything that goes wrong; `code` says what. */

export interface ErrorDetails {
  /** HTTP status; undefined: there was no answer. */
  readonly status?: number | undefined;
  /** Of the README's table of errors; `connection_failed` and `bad_response` are this client's own. */
  readonly code: string;
  /** The field or header that is wrong. */
  readonly param?: string | undefined;
  readonly requestId?: string | undefined;
  readonly cause?: unknown;
}

export class MaskServeError extends Error {
  readonly status: number | undefined;
  readonly code: string;
  readonly param: string | undefined;
  readonly requestId: string | undefined;

  constructor(message: string, details: ErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'MaskServeError';
    this.status = details.status;
    this.code = details.code;
    this.param = details.param;
    this.requestId = details.requestId;
  }
}

/** `{error: {message, code, param}}`, from a status or from the middle of a stream. Undefined: it is none. */
export function errorFromBody(
  body: unknown,
  where: { status?: number | undefined; requestId?: string | undefined },
): MaskServeError | undefined {
  const error = (body as { error?: unknown } | null | undefined)?.error;
  if (typeof error !== 'object' || error === null) return undefined;
  const { message, code, param } = error as { message?: unknown; code?: unknown; param?: unknown };
  return new MaskServeError(typeof message === 'string' ? message : 'the server gave no reason', {
    ...where,
    code: typeof code === 'string' ? code : 'unknown',
    param: typeof param === 'string' ? param : undefined,
  });
}
