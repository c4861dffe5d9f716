/** The upload path: the disk registry behind PUT /v1/masks, with its checker thread and real files, accepts exactly what fits its model. */
import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { ContainerReader } from '../../codec/decode.js';
import { CodecError } from '../../codec/errors.js';
import { MAX_HEADER_BYTES, readFixedHeader } from '../../codec/fixed-header.js';
import { NO_BUFFER } from '../../kernels/handle.js';
import type { MaskableMatrix } from '../../server/engine/types.js';
import { ServerError } from '../../server/errors.js';
import { openDiskRegistry } from '../../server/store/disk-registry.js';
import type { Registry } from '../../server/store/types.js';
import { BASE } from '../codec/random-sets.js';
import { makeCorpus } from './mutate.js';
import { Violation, type FuzzInput, type FuzzTarget } from './target.js';

const TASK = 'fuzzed';
const MAX_BYTES = 2 ** 20;

export async function makeTarget(): Promise<FuzzTarget> {
  const folder = await mkdtemp(join(tmpdir(), 'maskserve-fuzz-'));
  const maskable = matricesOf(makeCorpus());
  const registry = await openDiskRegistry({
    directory: folder,
    model: { name: 'fuzzed', base: BASE, maskable },
    graceMs: 0,
  });
  return {
    run: (input) => run(registry, maskable, input),
    close: async () => {
      await registry.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** A model whose matrices are those of the valid 2:4 containers. */
function matricesOf(corpus: readonly Uint8Array[]): MaskableMatrix[] {
  const matrices = new Map<string, MaskableMatrix>();
  for (const bytes of corpus) {
    const { m, n, tensors } = new ContainerReader(bytes).summary;
    if (n !== 2 || m !== 4) continue;
    for (const { name, rows, cols } of tensors) {
      if (!matrices.has(name)) matrices.set(name, { name, rows, cols, weight: NO_BUFFER });
    }
  }
  return [...matrices.values()];
}

async function run(registry: Registry, maskable: readonly MaskableMatrix[], { bytes }: FuzzInput): Promise<string> {
  const digest = createHash('sha256').update(bytes).digest('hex');
  const expected = expectedOutcome(bytes, maskable);
  const outcome = await publish(registry, bytes);
  const parentFirst = outcome === 'parent_unknown' && expected === 'invalid_mask' && namesParent(bytes);
  if (outcome !== expected && !parentFirst)
    throw new Violation(`the store says ${outcome}, the codec and the shapes ${expected}`);
  if (outcome !== 'accepted') return outcome;
  const { stream } = await registry.read(digest);
  if (!(await buffer(stream)).equals(bytes))
    throw new Violation('the store gives back other bytes than were published');
  await registry.remove(TASK, {});
  return outcome;
}

async function publish(registry: Registry, bytes: Uint8Array): Promise<string> {
  try {
    await registry.publish(TASK, Readable.from([bytes]), { maxBytes: MAX_BYTES });
    return 'accepted';
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    if (error.message.includes('\n')) throw new Violation(`more than one line: ${error.message}`, { cause: error });
    return error.code;
  }
}

/** Whether its first bytes alone say that it is coded against a parent, which no store of this target has: refused for that before what is wrong with the rest arrives. */
function namesParent(bytes: Uint8Array): boolean {
  try {
    const { inherits, parent } = readFixedHeader(bytes.subarray(0, MAX_HEADER_BYTES), undefined, BASE);
    return inherits && parent !== undefined;
  } catch (error) {
    if (error instanceof CodecError) return false;
    throw error;
  }
}

/** What the whole decoder and the model's shapes say, without the store. */
function expectedOutcome(bytes: Uint8Array, maskable: readonly MaskableMatrix[]): string {
  try {
    const reader = new ContainerReader(bytes, { expectBase: BASE });
    if (reader.needs.parent !== undefined) return 'parent_unknown';
    const { n, m, tensors } = reader.summary;
    const fits = tensors.every(({ name, rows, cols }) =>
      maskable.some((matrix) => matrix.name === name && matrix.rows === rows && matrix.cols === cols && cols % 8 === 0),
    );
    if (n !== 2 || m !== 4 || !fits) return 'invalid_mask';
    reader.check();
    return 'accepted';
  } catch (error) {
    if (!(error instanceof CodecError)) throw error;
    return error.code === 'wrong-base' ? 'wrong_base' : 'invalid_mask';
  }
}
