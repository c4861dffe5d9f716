/** Server-sent events as OpenAI frames them → an async iterable of chunks, to be read once. */
import { badResponse, connectionLost } from './connection.js';
import { errorFromBody } from './errors.js';

const DONE = '[DONE]';

/**
 * Yields the JSON of each `data:` block until [DONE]. Throws MaskServeError for an error event, and when the stream ends before [DONE]: what came until then is not
 * the whole answer. Leaving the loop early cancels the body, which ends the request on the server.
 */
export async function* readEvents<T>(
  response: Response,
  signal: AbortSignal | undefined,
): AsyncGenerator<T, void, undefined> {
  const type = response.headers.get('content-type') ?? '';
  if (!response.body || !type.startsWith('text/event-stream')) {
    throw badResponse(response, `expected text/event-stream but received ${type || 'no content type'}`);
  }
  for await (const data of dataOf(response.body, (cause) => connectionLost(response, cause, signal))) {
    if (data === DONE) return;
    yield parseEvent<T>(data, response);
  }
  throw connectionLost(response, new Error('no [DONE]'), signal);
}

function parseEvent<T>(data: string, response: Response): T {
  const where = { status: response.status, requestId: response.headers.get('x-request-id') ?? undefined };
  let event: unknown;
  try {
    event = JSON.parse(data);
  } catch (cause) {
    throw badResponse(
      response,
      `expected JSON in a data line but received ${JSON.stringify(data.slice(0, 80))}`,
      cause,
    );
  }
  const error = errorFromBody(event, where);
  if (error) throw error;
  return event as T;
}

/** Values of the `data:` lines, each block joined (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream). */
async function* dataOf(
  body: ReadableStream<Uint8Array>,
  lost: (cause: unknown) => unknown,
): AsyncGenerator<string, void, undefined> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = '';
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((cause: unknown) => {
        throw lost(cause);
      });
      text += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const blocks = text.split(/\r?\n\r?\n/);
      text = blocks.pop() ?? '';
      for (const block of blocks) {
        const data = dataOfBlock(block);
        if (data !== undefined) yield data;
      }
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function dataOfBlock(block: string): string | undefined {
  const lines = block.split(/\r?\n/).filter((line) => line.startsWith('data:'));
  if (lines.length === 0) return undefined;
  return lines.map((line) => line.slice('data:'.length).replace(/^ /, '')).join('\n');
}
