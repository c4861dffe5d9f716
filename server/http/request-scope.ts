/** How long a request may use the engine: until its answer is done, its client has gone, or its time is up. */
import type { Response } from 'express';
import { ServerError } from '../errors.js';

/** The client closed the connection: there is nobody to answer. */
export class ClientGone extends Error {
  constructor(message = 'the client closed the connection') {
    super(message);
    this.name = 'ClientGone';
  }
}

export interface RequestScope {
  /** Aborted with a ClientGone or a ServerError request_timeout. */
  readonly signal: AbortSignal;
  /** Ends the watch; call it in `finally`. */
  close(): void;
}

/** Watches the connection from now on. `res` closes after its last byte, or when the connection is lost before. */
export function openScope(res: Response, timeoutMs: number): RequestScope {
  const controller = new AbortController();
  const onClose = (): void => {
    if (!res.writableFinished) controller.abort(new ClientGone());
  };
  const timer = setTimeout(() => controller.abort(timeout(timeoutMs)), timeoutMs);
  res.once('close', onClose);
  if (res.destroyed) onClose();
  return {
    signal: controller.signal,
    close: () => {
      clearTimeout(timer);
      res.off('close', onClose);
    },
  };
}

function timeout(timeoutMs: number): ServerError {
  return new ServerError(
    'request_timeout',
    `the request was not done after ${timeoutMs / 1000} s; ask for fewer tokens, or start the server with a larger --request-timeout`,
  );
}
