/**
 * Counting and encoding through native coders, for 2:4: bit for bit what symbol-counts.ts, dense-chunk.ts and patch-chunk.ts do. Masks are packed
 * to nibbles for each call and dropped, so that a large set is never in memory twice.
 */
import type { CodedTensor, PatchedTensor } from '../kernels/codec-types.js';
import { coderNamed, type Coder } from './coder.js';
import type { ChunkCoding } from './dense-chunk.js';
import { fastCoders, type FastCoders } from './fast-coders.js';
import type { FrequencyTables } from './frequency-table.js';
import type { TensorSources } from './group-contexts.js';
import { LANES, type ChunkPlan, type TensorEntry } from './layout.js';
import type { Mask } from './mask-set.js';
import { tableList, type Model } from './models.js';
import type { Changes } from './patch-chunk.js';
import { NIBBLE_OF_SYMBOL, SYMBOL_OF_NIBBLE, type PatternTable } from './pattern.js';

type DensePlan = ChunkPlan & { readonly kind: 'dense' };

/** Symbols of a context in native counts: those of a pattern, rounded up. */
const COUNT_STRIDE = 8;
/** Room of an encoder: by chunk and by step of symbols, by chunk and by change. */
const CHUNK_ROOM = 128;
const STEP_ROOM = 64;
const PATCH_ROOM = 32;
const CHANGE_ROOM = 10;
/** Chunks are encoded so many at a time as such room takes. */
const BATCH_ROOM = 2 ** 25;
/** Changes that no chunk has. */
const WHOLE_CHUNK = 2 ** 40;

/** Native coders where the program has them and they know the patterns. */
export function fastCodersFor({ n, m }: PatternTable): FastCoders | undefined {
  return n === 2 && m === 4 ? fastCoders() : undefined;
}

/** How often a tensor's mask has each coded symbol in each context of a dense coder (contexts · P). */
export function countFast(
  fast: FastCoders,
  coder: Coder,
  mask: Mask,
  sources: TensorSources,
  patterns: PatternTable,
): Float64Array {
  const { count, symbols } = tableList(coder, patterns)!;
  const counts = new Uint32Array(COUNT_STRIDE * count);
  fast.countSymbols(codedTensor(fast, coder, mask, sources), counts);
  return Float64Array.from(
    { length: count * symbols },
    (_, i) => counts[COUNT_STRIDE * Math.floor(i / symbols) + (i % symbols)]!,
  );
}

/** Whether a mask keeps the largest magnitudes: in no context has it another rank pattern. */
export function isMagnitudeFast(fast: FastCoders, mask: Mask, sources: TensorSources, patterns: PatternTable): boolean {
  const counts = countFast(fast, coderNamed('weights'), mask, sources, patterns);
  return counts.every((count, i) => count === 0 || i % patterns.count === 0);
}

let foundGroups = new Uint32Array(0);
let foundCodes = new Uint8Array(0);

/** Where symbols differ from the parent's. */
export function changesFast(fast: FastCoders, symbols: Uint8Array, parent: Uint8Array): Changes {
  const groups = symbols.length;
  if (foundGroups.length < groups) [foundGroups, foundCodes] = [new Uint32Array(groups), new Uint8Array(groups)];
  const count = fast.findChanges(packed(fast, symbols), packed(fast, parent), groups, foundGroups, foundCodes);
  return {
    groups: foundGroups.slice(0, count),
    symbols: foundCodes.subarray(0, count).map((code) => SYMBOL_OF_NIBBLE[code]!),
  };
}

/** All dense chunks of a set, in order; `plans` are theirs. `room` is what an encoder may fill at a time, in bytes. */
export function encodeDenseFast(
  fast: FastCoders,
  plans: readonly DensePlan[],
  chunkLog2: number,
  coding: ChunkCoding,
  masks: readonly Mask[],
  room = BATCH_ROOM,
): Uint8Array[] {
  const chunkSteps = 2 ** chunkLog2 / LANES;
  const batch = Math.max(1, Math.floor(room / (CHUNK_ROOM + STEP_ROOM * chunkSteps)));
  const chunks: Uint8Array[] = [];
  for (let first = 0; first < plans.length; first += batch) {
    const pieces = plans.slice(first, first + batch).flatMap((plan) => plan.pieces);
    const members = [...new Set(pieces.map(({ tensor }) => tensor))];
    const tensors = members.map((tensor) => {
      const { coder } = coding.tensors[tensor] as TensorEntry;
      const { cum } = (coding.models.get(coder) as Model).tables;
      return { ...codedTensor(fast, coder, masks[tensor]!, coding.sources(tensor)), cum };
    });
    const count = Math.min(batch, plans.length - first);
    const out = new Uint8Array(count * (CHUNK_ROOM + STEP_ROOM * chunkSteps));
    const [lengths, checksums] = [new Uint32Array(count), new Uint32Array(count)];
    fast.encodeMasks(tensors, chunkSteps, (pieces[0]?.first ?? 0) / LANES, out, lengths, checksums);
    chunks.push(...cut(out, lengths));
  }
  return chunks;
}

/** A patch chunk; undefined if its tensors have different coders, whose gap tables differ too: native code takes one. */
export function encodePatchFast(
  fast: FastCoders,
  indices: readonly number[],
  { tensors, models, sources }: ChunkCoding,
  changesOf: (tensor: number) => Changes,
): Uint8Array | undefined {
  const { coder } = tensors[indices[0]!] as TensorEntry;
  if (indices.some((index) => tensors[index]!.coder !== coder)) return undefined;
  const { tables, single } = models.get(coder) as Model;
  const patched = indices.map((index): PatchedTensor => {
    const { groups, cols } = tensors[index] as TensorEntry;
    const { groups: positions, symbols } = changesOf(index);
    const codes = symbols.map((symbol) => NIBBLE_OF_SYMBOL[symbol]!);
    const inputs = inputsOf(fast, sources(index));
    return { coder: coder.id, groups, cols, cum: tables.cum, ...inputs, changes: positions.length, positions, codes };
  });
  const changes = patched.reduce((sum, tensor) => sum + tensor.changes, 0);
  const out = new Uint8Array(PATCH_ROOM + CHANGE_ROOM * changes);
  const [lengths, checksums] = [new Uint32Array(1), new Uint32Array(1)];
  fast.encodePatches(patched, WHOLE_CHUNK, (single as FrequencyTables).cum, out, lengths, checksums);
  return cut(out, lengths)[0];
}

function codedTensor(fast: FastCoders, { id: coder }: Coder, mask: Mask, sources: TensorSources): CodedTensor {
  const { cols, symbols } = mask;
  return { coder, groups: symbols.length, cols, mask: packed(fast, symbols), ...inputsOf(fast, sources) };
}

function inputsOf(
  fast: FastCoders,
  { parent, weights, scales }: TensorSources,
): Pick<CodedTensor, 'parent' | 'weights' | 'scales'> {
  return {
    ...(parent === undefined ? {} : { parent: packed(fast, parent) }),
    ...(weights === undefined ? {} : { weights }),
    ...(scales === undefined ? {} : { scales: scales.byColumn }),
  };
}

function packed(fast: FastCoders, symbols: Uint8Array): Uint8Array {
  const nibbles = new Uint8Array(Math.ceil(symbols.length / 2));
  fast.packSymbols(nibbles, symbols);
  return nibbles;
}

/** Copies of chunks that lie one after the other. */
function cut(bytes: Uint8Array, lengths: Uint32Array): Uint8Array[] {
  let end = 0;
  return Array.from(lengths, (length) => bytes.slice(end, (end += length)));
}
