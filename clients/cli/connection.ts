/** The server that a command talks to, and what its errors mean to somebody at a terminal. */
import { MaskServe, MaskServeError } from '../sdk/index.js';
import type { GlobalOptions } from './global-options.js';

export function connect({ server, key }: GlobalOptions): MaskServe {
  return new MaskServe({ baseUrl: server, ...(key === undefined ? {} : { apiKey: key }) });
}

/** The SDK's sentence, with what to do about it here. */
export function explain({ message, status, code, requestId }: MaskServeError): string {
  if (status === undefined) return `${message} Start it with "maskserve", or name another server by --server URL`;
  if (status === 401) return `${message} (here: --key KEY, or MASKSERVE_API_KEY)`;
  if (code === 'task_not_found') return message.replace(/; GET \/v1\/.*$/, '; "maskctl tasks" lists them');
  if (status >= 500 && requestId !== undefined) return `${message} (request ${requestId})`;
  return message;
}

/** Throws unless the server serves the weights with the digest `base`: a mask for others would be refused after all the work. */
export async function checkServerBase(client: MaskServe, base: string, options: GlobalOptions): Promise<void> {
  const [model] = await client.models();
  if (model === undefined || model.base === base) return; // a key that may see no model can still publish
  throw new Error(
    `expected --model to be the directory that ${options.server} serves, whose weights have the digest ${model.base}, but received one with ${base}`,
  );
}

/** A line to paste into a shell. */
export function curlLine({ server, key }: GlobalOptions, task: string): string {
  const authorization = key === undefined ? '' : ' -H "Authorization: Bearer $MASKSERVE_API_KEY"';
  return `curl ${server}/v1/completions -H 'Content-Type: application/json' -H 'X-Task: ${task}'${authorization} -d '{"prompt": "The", "max_tokens": 32}'`;
}
