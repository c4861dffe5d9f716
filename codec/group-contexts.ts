/** What each coder makes of a group: the symbol that is coded and the context that chooses its table. FORMAT.md §7. */
import type { Coder } from './coder.js';
import { BUCKETS } from './models.js';
import type { PatternTable } from './pattern.js';
import {
  rankGroups,
  rankPatternOf,
  symbolOfRanks,
  type ColumnScales,
  type GroupSelection,
  type RankedGroups,
} from './ranks.js';

/** What encoder and decoder both have of one tensor: as much as its coder needs. */
export interface TensorSources {
  /** The parent's symbols. (groups) */
  readonly parent?: Uint8Array;
  /** bf16 bit patterns. (rows · cols) */
  readonly weights?: Uint16Array;
  readonly scales?: ColumnScales;
}

/** Selected groups of one tensor as a coder sees them. */
export interface GroupContexts {
  /** (count) */
  readonly contexts: Uint16Array;
  /** Positions by rank, where rank patterns are coded. (count · m) */
  readonly order: Uint8Array | undefined;
}

/** Contexts of the selected groups. `sources` has what the coder needs; `ranked` may have been made before. */
export function groupContexts(
  coder: Coder,
  patterns: PatternTable,
  sources: TensorSources,
  selection: GroupSelection,
  ranked?: RankedGroups,
): GroupContexts {
  const contexts = new Uint16Array(selection.count);
  const { parent, weights } = sources;
  if (coder.codes === 'symbols') {
    if (coder.needsParent) parentSymbols(parent as Uint8Array, selection, contexts);
    return { contexts, order: undefined };
  }
  const scales = coder.codes === 'scaled ranks' ? sources.scales : undefined;
  const { order, clarity, bucket } = ranked ?? rankGroups(weights as Uint16Array, patterns, selection, scales);
  if (coder.needsParent) {
    parentSymbols(parent as Uint8Array, selection, contexts);
    for (let i = 0; i < contexts.length; i++) {
      contexts[i] = BUCKETS * rankPatternOf(patterns, order, i * patterns.m, contexts[i]!) + bucket[i]!;
    }
  } else {
    contexts.set(clarity);
  }
  return { contexts, order };
}

/** Coded symbols → symbols, in place. */
export function toSymbols(coded: Uint8Array, { order }: GroupContexts, patterns: PatternTable): Uint8Array {
  if (order === undefined) return coded;
  for (let i = 0; i < coded.length; i++) coded[i] = symbolOfRanks(patterns, order, i * patterns.m, coded[i]!);
  return coded;
}

/** Symbols → coded symbols, a new array. */
export function toCoded(symbols: Uint8Array, { order }: GroupContexts, patterns: PatternTable): Uint8Array {
  if (order === undefined) return symbols;
  const coded = new Uint8Array(symbols.length);
  for (let i = 0; i < coded.length; i++) coded[i] = rankPatternOf(patterns, order, i * patterns.m, symbols[i]!);
  return coded;
}

function parentSymbols(parent: Uint8Array, { first, count, groups }: GroupSelection, into: Uint16Array): void {
  for (let i = 0; i < count; i++) into[i] = parent[groups === undefined ? first + i : groups[i]!]!;
}
