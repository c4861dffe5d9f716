/** Digests on the command line: whole, or as much of one as tells a task's versions apart. */
import type { MaskServe } from '../sdk/index.js';
import { UsageError } from './usage-error.js';

const WHOLE = /^[0-9a-f]{64}$/;
const PART = /^[0-9a-f]{4,63}$/;

/** What `option` gave → 64 hexadecimal digits. A part of a digest is looked up among the task's versions. */
export async function wholeDigest(client: MaskServe, task: string, text: string, option: string): Promise<string> {
  const digits = text.toLowerCase().replace(/^sha256:/, '');
  if (WHOLE.test(digits)) return digits;
  if (!PART.test(digits)) {
    throw new UsageError(`expected ${option} to be 4 to 64 hexadecimal digits of a digest but received ${text}`);
  }
  const { data } = await client.masks.versions(task);
  const found = [...new Set(data.map(({ digest }) => digest))].filter((digest) => digest.startsWith(digits));
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  const problem = found.length === 0 ? `no version of ${task} has` : `${found.length} versions of ${task} have`;
  throw new Error(`${problem} a digest that starts with ${digits}; see "maskctl versions ${task}"`);
}
