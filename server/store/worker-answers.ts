/** The worker's side of worker-calls.ts: answers each call in turn with what `answer` returns or throws. */
import { parentPort } from 'node:worker_threads';
import type { CallMessage, ReplyMessage } from './worker-calls.js';

export function answerCalls<Request, Reply>(answer: (request: Request) => Reply): void {
  const port = parentPort;
  if (!port) throw new Error('expected to run in a worker thread');
  port.on('message', ({ id, request }: CallMessage<Request>) => port.postMessage(replyTo(id, request, answer)));
}

function replyTo<Request, Reply>(
  id: number,
  request: Request,
  answer: (request: Request) => Reply,
): ReplyMessage<Reply> {
  try {
    return { id, reply: answer(request) };
  } catch (error) {
    return { id, error: error instanceof Error ? error.message : String(error) };
  }
}
