/** Random tensors for the codec's kernels, their tables, and the TypeScript codec's view of them. */
import { coderNamed, type CoderName } from '../../codec/coder.js';
import type { ChunkCoding } from '../../codec/dense-chunk.js';
import { groupContexts, toCoded, type TensorSources } from '../../codec/group-contexts.js';
import { planChunks, type ChunkPlan, type TensorEntry } from '../../codec/layout.js';
import { writeModels, type Model, type ModelHistogram, type Models } from '../../codec/models.js';
import { forEachGap, rawGapBits, type Changes } from '../../codec/patch-chunk.js';
import { nibblesToSymbols, patternTable, symbolsToNibbles } from '../../codec/pattern.js';
import { SectionWriter } from '../../codec/varint.js';
import type { CodedTensor, PatchedTensor } from '../../kernels/index.js';
import { weights, type Random } from './numbers.js';

export const PATTERNS = patternTable(2, 4);

/** One tensor and everything that some coder needs of it. */
export interface Case {
  readonly entry: TensorEntry;
  readonly symbols: Uint8Array;
  readonly parent: Uint8Array;
  readonly weights: Uint16Array;
  /** (cols) */
  readonly scales: Int16Array;
  readonly changes: Changes;
}

/** A (rows, cols) tensor whose mask follows its weights and its parent more often than not; a patch changes about `churn` of it. */
export function randomCase(next: Random, name: CoderName, rows: number, cols: number, churn = 0.1): Case {
  const groups = (rows * cols) / 4;
  const w = weights(next, 4 * groups);
  const parent = Uint8Array.from({ length: groups }, () => Math.floor(next() ** 2 * 6));
  const change = (symbol: number): number => (symbol + 1 + Math.floor(next() * 5)) % 6;
  const symbols = parent.map((symbol) => (next() < churn ? change(symbol) : symbol));
  if (symbols.every((symbol, i) => symbol === parent[i])) symbols[groups - 1] = change(parent[groups - 1] ?? 0);
  const changed = Uint32Array.from([...symbols.keys()].filter((i) => symbols[i] !== parent[i]));
  const coder = coderNamed(name);
  return {
    entry: { name, rows, cols, groups, coder, changes: coder.form === 'patch' ? changed.length : 0 },
    symbols,
    parent,
    weights: w,
    scales: Int16Array.from({ length: cols }, () => 16 * (Math.floor(next() * 64) - 32)),
    changes: { groups: changed, symbols: Uint8Array.from(changed, (i) => symbols[i] ?? 0) },
  };
}

export function sourcesOf({ parent, weights: w, scales }: Case): TensorSources {
  return { parent, weights: w, scales: { byColumn: scales } };
}

/** Tables that fit the cases, and what the TypeScript chunk coders take. */
export function codingOf(cases: readonly Case[]): ChunkCoding {
  const histograms = new Map<TensorEntry['coder'], ModelHistogram>();
  for (const one of cases) {
    const { coder } = one.entry;
    const contexts = coder.name.endsWith('weights') ? 64 : 6;
    const histogram = histograms.get(coder) ?? {
      tables: new Float64Array((coder.name.startsWith('pa') && contexts === 64 ? 60 : contexts) * 6),
      single: new Float64Array(64),
    };
    histograms.set(coder, histogram);
    countInto(histogram, one);
  }
  const models: Models = writeModels(new SectionWriter(), histograms, PATTERNS);
  return {
    patterns: PATTERNS,
    tensors: cases.map(({ entry }) => entry),
    models,
    sources: (i) => sourcesOf(cases[i] as Case),
  };
}

function countInto({ tables, single }: ModelHistogram, one: Case): void {
  const { entry, symbols, changes } = one;
  const patch = entry.coder.form === 'patch';
  const selection = patch
    ? { first: 0, count: changes.groups.length, groups: changes.groups }
    : { first: 0, count: entry.groups };
  const contexts = groupContexts(entry.coder, PATTERNS, sourcesOf(one), selection);
  toCoded(patch ? changes.symbols : symbols, contexts, PATTERNS).forEach((symbol, i) => {
    const at = 6 * (contexts.contexts[i] ?? 0) + symbol;
    if (at < tables.length) tables[at] = (tables[at] ?? 0) + 1;
  });
  if (!patch) return;
  forEachGap(changes.groups, rawGapBits(entry), (gap) => {
    for (const symbol of gap) single[symbol] = (single[symbol] ?? 0) + 1;
  });
}

export function plansOf(cases: readonly Case[], chunkLog2 = 12, patchLog2 = 8): ChunkPlan[] {
  return planChunks(
    cases.map(({ entry }) => entry),
    { chunkLog2, patchLog2, patterns: 6 },
  );
}

function modelOf({ entry }: Case, { models }: ChunkCoding): Model {
  return models.get(entry.coder) as Model;
}

/** The case as the kernels take it, with room for a mask or the mask itself. */
export function tensorOf(one: Case, coding: ChunkCoding, mask: Uint8Array): CodedTensor {
  return {
    coder: one.entry.coder.id,
    groups: one.entry.groups,
    cols: one.entry.cols,
    cum: modelOf(one, coding).tables.cum,
    weights: one.weights,
    scales: one.scales,
    parent: symbolsToNibbles(one.parent),
    mask,
  };
}

export function patchOf(one: Case, coding: ChunkCoding, filled: boolean): PatchedTensor {
  const count = one.entry.changes;
  const mask = new Uint8Array(0);
  return {
    ...tensorOf(one, coding, mask),
    changes: count,
    positions: filled ? one.changes.groups : new Uint32Array(count),
    codes: filled ? Uint8Array.from(one.changes.symbols, (symbol) => nibbleOf(symbol)) : new Uint8Array(count),
  };
}

export function gapsOf(cases: readonly Case[], coding: ChunkCoding): Uint16Array {
  return modelOf(cases[0] as Case, coding).single?.cum ?? new Uint16Array(65);
}

export function nibbleOf(symbol: number): number {
  return symbolsToNibbles(Uint8Array.of(symbol))[0] ?? 0;
}

export function symbolOf(nibble: number): number {
  return nibblesToSymbols(Uint8Array.of(nibble), 1)[0] ?? 0;
}

/** Some damage to a chunk: a bit, a word, a cut, an addition; sometimes none. */
export function damaged(next: Random, bytes: Uint8Array): Uint8Array {
  const at = Math.floor(next() * bytes.length);
  const copy = bytes.slice();
  switch (Math.floor(next() * 6)) {
    case 0:
      copy[at] = (copy[at] ?? 0) ^ (1 << Math.floor(next() * 8));
      return copy;
    case 1:
      return copy.fill(Math.floor(next() * 256), at, at + 4);
    case 2:
      return copy.slice(0, Math.max(4, at));
    case 3:
      return new Uint8Array([...copy, ...copy.slice(at, at + 6)]);
    case 4:
      return copy.fill(0, 0, 4 + Math.floor(next() * 128));
    default:
      return copy;
  }
}
