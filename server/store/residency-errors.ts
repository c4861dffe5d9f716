/** Why a task can't be brought into memory: sentences for clients. */
import { ServerError } from '../errors.js';

const RETRY_AFTER_SECONDS = 5;

export function tooLarge(cost: number, budget: number): ServerError {
  return new ServerError(
    'out_of_memory',
    `a task of this model takes ${cost} bytes in memory, but all resident tasks together may take ${budget}; raise --cache-bytes`,
  );
}

export function allLeased(budget: number, waitedMs: number): ServerError {
  return new ServerError(
    'out_of_memory',
    `waited ${waitedMs / 1000} s for room among the resident tasks, but running requests use all ${budget} bytes; try again later or raise --cache-bytes`,
    { retryAfterSeconds: RETRY_AFTER_SECONDS },
  );
}

export function shuttingDown(): ServerError {
  return new ServerError('shutting_down', 'the server is shutting down');
}
