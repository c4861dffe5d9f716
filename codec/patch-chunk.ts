/** Patches: where a tensor differs from its parent's, and how. FORMAT.md §9. */
import type { ChunkCoding } from './dense-chunk.js';
import { CodecError } from './errors.js';
import { groupContexts, toCoded, toSymbols } from './group-contexts.js';
import type { TensorEntry } from './layout.js';
import type { Model } from './models.js';
import { RansReader, RansWriter } from './rans.js';

/** Last symbol of the gap table: so much, and more follows. */
export const GAP_ESCAPE = 63;
/** Gaps are cut so that they average 8 to 16 of the units that the gap table counts. */
const UNIT_LOG2_BELOW_MEAN = 3;

/** Changed groups of one tensor. */
export interface Changes {
  /** Ascending. (count) */
  readonly groups: Uint32Array;
  /** Their new symbols. (count) */
  readonly symbols: Uint8Array;
}

/** h of FORMAT.md §9: raw bits of each gap. */
export function rawGapBits({ groups, changes }: Pick<TensorEntry, 'groups' | 'changes'>): number {
  return Math.max(0, 31 - Math.clz32(Math.floor(groups / changes)) - UNIT_LOG2_BELOW_MEAN);
}

/**
 * Decodes a chunk: the changes of each of its tensors. Throws CodecError `patch-position`; undefined if the chunk does not end with its
 * last symbol.
 */
export function decodePatchChunk(
  chunk: Uint8Array,
  indices: readonly number[],
  coding: ChunkCoding,
): Changes[] | undefined {
  const reader = new RansReader(chunk, 1);
  const positions = indices.map((index) => readPositions(reader, coding.tensors[index] as TensorEntry, coding));
  const changes = indices.map((index, i): Changes => {
    const groups = positions[i]!;
    const { model, contexts } = changeModel(index, groups, coding);
    const symbols = Uint8Array.from(contexts.contexts, (context) => reader.symbol(0, model.tables, context));
    return { groups, symbols: toSymbols(symbols, contexts, coding.patterns) };
  });
  return reader.ended ? changes : undefined;
}

export function encodePatchChunk(
  indices: readonly number[],
  coding: ChunkCoding,
  changesOf: (tensor: number) => Changes,
): Uint8Array {
  const writer = new RansWriter(1);
  for (const index of indices) {
    const tensor = coding.tensors[index] as TensorEntry;
    const { single } = coding.models.get(tensor.coder) as Model;
    const raw = rawGapBits(tensor);
    forEachGap(changesOf(index).groups, raw, (symbols, low) => {
      for (const symbol of symbols) writer.symbol(0, single as NonNullable<typeof single>, 0, symbol);
      writer.raw(0, raw, low);
    });
  }
  for (const index of indices) {
    const { groups, symbols } = changesOf(index);
    const { model, contexts } = changeModel(index, groups, coding);
    toCoded(symbols, contexts, coding.patterns).forEach((symbol, i) => {
      writer.symbol(0, model.tables, contexts.contexts[i]!, symbol);
    });
  }
  return writer.finish();
}

/** Splits the gaps of ascending groups into symbols of the gap table and raw bits. */
export function forEachGap(
  groups: Uint32Array,
  raw: number,
  visit: (symbols: readonly number[], low: number) => void,
): void {
  let last = -1;
  for (const group of groups) {
    const gap = group - last - 1;
    const symbols: number[] = [];
    let rest = Math.floor(gap / 2 ** raw);
    for (; rest >= GAP_ESCAPE; rest -= GAP_ESCAPE) symbols.push(GAP_ESCAPE);
    symbols.push(rest);
    visit(symbols, gap % 2 ** raw);
    last = group;
  }
}

function readPositions(reader: RansReader, tensor: TensorEntry, coding: ChunkCoding): Uint32Array {
  const { single } = coding.models.get(tensor.coder) as Model;
  const raw = rawGapBits(tensor);
  const positions = new Uint32Array(tensor.changes);
  let last = -1;
  for (let i = 0; i < positions.length; i++) {
    let high = 0;
    for (let symbol = GAP_ESCAPE; symbol === GAP_ESCAPE;) {
      symbol = reader.symbol(0, single as NonNullable<typeof single>, 0);
      high += symbol;
      if (high * 2 ** raw >= tensor.groups) throw badPosition(tensor, i);
    }
    last += 1 + high * 2 ** raw + reader.raw(0, raw);
    if (last >= tensor.groups) throw badPosition(tensor, i);
    positions[i] = last;
  }
  return positions;
}

function changeModel(
  index: number,
  groups: Uint32Array,
  { tensors, models, patterns, sources }: ChunkCoding,
): { model: Model; contexts: ReturnType<typeof groupContexts> } {
  const { coder } = tensors[index] as TensorEntry;
  const contexts = groupContexts(coder, patterns, sources(index), { first: 0, count: groups.length, groups });
  return { model: models.get(coder) as Model, contexts };
}

function badPosition({ name, groups }: TensorEntry, change: number): CodecError {
  return new CodecError(
    'patch-position',
    `expected the changed groups of ${name} below ${groups}, got one beyond (change ${change}): the writer of this file is at fault`,
  );
}
