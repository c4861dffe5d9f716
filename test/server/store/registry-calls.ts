/** Calls of a registry as tests make them, and what they expect of a refusal. */
import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import type { Digest } from '../../../codec/mask-set.js';
import { ServerError, type ErrorCode } from '../../../server/errors.js';
import type { Precondition, Registry } from '../../../server/store/types.js';

/** More than any container of these tests takes. */
export const MAX_BYTES = 1 << 20;

/** A digest that nothing has. */
export const NOBODY: Digest = '0'.repeat(64);

export async function publish(
  registry: Registry,
  task: string,
  bytes: Uint8Array,
  precondition?: Precondition,
): Promise<{ digest: Digest; created: boolean }> {
  const { record, created } = await registry.publish(task, streamOf(bytes), { precondition, maxBytes: MAX_BYTES });
  return { digest: record.digest, created };
}

export async function bytesOf(registry: Registry, digest: Digest): Promise<Buffer> {
  const { stream } = await registry.read(digest);
  return Buffer.concat((await stream.toArray()) as Buffer[]);
}

/** The bytes in pieces of odd length, as a network brings them. */
export function streamOf(bytes: Uint8Array): Readable {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += 777) pieces.push(bytes.subarray(at, at + 777));
  return Readable.from(pieces);
}

/** For assert.rejects: a ServerError of this code, with a sentence that matches. */
export function refusal(code: ErrorCode, sentence = /./): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof ServerError, `expected a ServerError ${code} but received ${String(error)}`);
    assert.equal(error.code, code, error.message);
    assert.match(error.message, sentence);
    return true;
  };
}
