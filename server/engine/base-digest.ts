/**
 * The base digest: which frozen weights a mask belongs to. sha256 over every tensor in name order: `name \0 type \0 rows x cols \0 sha256(bytes) \n`.
 * It does not depend on how the tensors are split into files, nor on the other files of the directory.
 */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import type { Digest } from '../../codec/mask-set.js';
import { CacheFile } from './cache-file.js';
import type { TensorLocation } from './safetensors.js';

const CHUNK_BYTES = 4 << 20;
/** Below this, hashing is quicker than keeping a cache honest. */
const CACHE_FROM_BYTES = 64 << 20;

/** Digest of the tensors' bytes; for large models remembered by file identity (path, size, mtime, inode) in the user's cache folder. */
export function baseDigest(tensors: ReadonlyMap<string, TensorLocation>): Digest {
  const total = [...tensors.values()].reduce((sum, tensor) => sum + tensor.bytes, 0);
  if (total < CACHE_FROM_BYTES) return computeBaseDigest(tensors);
  const cache = new CacheFile('base-digests', fileIdentity(tensors));
  const cached = cache.read()?.trim() ?? '';
  if (/^[0-9a-f]{64}$/.test(cached)) return cached;
  const digest = computeBaseDigest(tensors);
  cache.write(digest);
  return digest;
}

export function computeBaseDigest(tensors: ReadonlyMap<string, TensorLocation>): Digest {
  const total = createHash('sha256');
  const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
  const open = new Map<string, number>();
  try {
    for (const name of [...tensors.keys()].sort()) {
      const tensor = tensors.get(name) as TensorLocation;
      const descriptor = open.get(tensor.file) ?? openSync(tensor.file, 'r');
      open.set(tensor.file, descriptor);
      const hash = createHash('sha256');
      for (let done = 0; done < tensor.bytes;) {
        const want = Math.min(CHUNK_BYTES, tensor.bytes - done);
        const got = readSync(descriptor, chunk, 0, want, tensor.offset + done);
        if (got === 0) throw new Error(`${tensor.file} ended inside tensor ${name}`);
        hash.update(chunk.subarray(0, got));
        done += got;
      }
      total.update(`${name}\0${tensor.type}\0${tensor.shape.join('x')}\0${hash.digest('hex')}\n`);
    }
  } finally {
    for (const descriptor of open.values()) closeSync(descriptor);
  }
  return total.digest('hex');
}

function fileIdentity(tensors: ReadonlyMap<string, TensorLocation>): string {
  const files = [...new Set([...tensors.values()].map((tensor) => tensor.file))].sort();
  const identity = files.map((file) => {
    const { size, mtimeMs, ino, dev } = statSync(file);
    return `${file}\0${size}\0${mtimeMs}\0${ino}\0${dev}`;
  });
  return createHash('sha256').update(identity.join('\n')).digest('hex');
}
