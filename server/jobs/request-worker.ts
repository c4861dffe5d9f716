/** Worker thread: reads and checks the body of a POST /v1/train, which may be hundreds of megabytes of text, so that no token of anybody waits for it. */
import { readFileSync } from 'node:fs';
import { workerData } from 'node:worker_threads';
import { toWire, type WireError } from '../engine/protocol.js';
import { ServerError } from '../errors.js';
import { answerCalls } from '../store/worker-answers.js';
import { orderOf, type ModelLimits } from './request.js';
import type { TrainOrder } from './types.js';

export interface CheckCall {
  readonly path: string;
}

export type CheckReply = { readonly order: TrainOrder } | { readonly refused: WireError };

const limits = workerData as ModelLimits;

answerCalls<CheckCall, CheckReply>(({ path }) => {
  try {
    return { order: orderOf(parse(readFileSync(path)), limits) };
  } catch (error) {
    if (error instanceof ServerError) return { refused: toWire(error) };
    throw error;
  }
});

function parse(bytes: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new ServerError(
      'invalid_request',
      `expected a JSON object in UTF-8 as the body: ${(cause as Error).message.slice(0, 200)}`,
      { cause },
    );
  }
}
