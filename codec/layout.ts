/** Which chunks a set of tensors has, and what each holds: FORMAT.md §6, §8.2, §9. It follows from the tables alone. */
import type { Coder } from './coder.js';
import * as arithmetic from './uniform-ac.js';

/** Lanes of a chunk of symbols that has steps enough for them. */
export const LANES = 32;
const STEPS_FOR_ALL_LANES = 128;
const STATE_BYTES = 4;
/** A change takes at most so many bytes: gap, its escapes and raw bits, and symbol are fewer than five words. */
const MAX_CHANGE_BYTES = 10;

/** One matrix, as the tensor table describes it. */
export interface TensorEntry {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  /** rows · cols / m */
  readonly groups: number;
  readonly coder: Coder;
  /** Changed groups, for patches; else 0. */
  readonly changes: number;
}

/** Groups of one tensor that lie together in a chunk. */
export interface Piece {
  readonly tensor: number;
  readonly first: number;
  readonly count: number;
}

interface Bounds {
  readonly minBytes: number;
  readonly maxBytes: number;
}

export type ChunkPlan = Bounds &
  (
    | { readonly kind: 'scales'; readonly tensors: readonly number[] }
    | { readonly kind: 'dense'; readonly lanes: number; readonly pieces: readonly Piece[] }
    | { readonly kind: 'patch'; readonly tensors: readonly number[]; readonly changes: number }
    | { readonly kind: 'arithmetic'; readonly piece: Piece }
  );

export interface LayoutSettings {
  readonly chunkLog2: number;
  readonly patchLog2: number;
  /** P, for the bounds of `uniform-ac`. */
  readonly patterns: number;
}

/** Number of chunks, without making them: to be compared with chunkCount first. */
export function countChunks(tensors: readonly TensorEntry[], { chunkLog2, patchLog2 }: LayoutSettings): number {
  let steps = 0;
  let arithmeticChunks = 0;
  for (const { coder, groups } of tensors) {
    if (coder.form === 'dense') steps += Math.ceil(groups / LANES);
    if (coder.form === 'arithmetic') arithmeticChunks += Math.ceil(groups / 2 ** chunkLog2);
  }
  return (
    scaledTensors(tensors).length +
    Math.ceil(steps / (2 ** chunkLog2 / LANES)) +
    patchTensors(tensors, 2 ** patchLog2).length +
    arithmeticChunks
  );
}

/** All chunks in the order of the payload. */
export function planChunks(tensors: readonly TensorEntry[], settings: LayoutSettings): ChunkPlan[] {
  return [
    ...scaledTensors(tensors).map((indices): ChunkPlan => {
      const scales = indices.reduce((sum, index) => sum + tensors[index]!.cols, 0);
      return { kind: 'scales', tensors: indices, ...ransBounds(1, scales) };
    }),
    ...densePlans(tensors, 2 ** settings.chunkLog2 / LANES),
    ...patchTensors(tensors, 2 ** settings.patchLog2).map((indices): ChunkPlan => {
      const changes = indices.reduce((sum, index) => sum + tensors[index]!.changes, 0);
      const maxBytes = STATE_BYTES + MAX_CHANGE_BYTES * changes;
      return { kind: 'patch', tensors: indices, changes, minBytes: STATE_BYTES, maxBytes };
    }),
    ...arithmeticPlans(tensors, settings),
  ];
}

/** The tensors of the chunk of scales: one list, or none. */
function scaledTensors(tensors: readonly TensorEntry[]): number[][] {
  const scaled = [...tensors.keys()].filter((index) => tensors[index]!.coder.codes === 'scaled ranks');
  return scaled.length > 0 ? [scaled] : [];
}

function patchTensors(tensors: readonly TensorEntry[], full: number): number[][] {
  const chunks: number[][] = [];
  let changes = full;
  tensors.forEach((tensor, index) => {
    if (tensor.changes === 0) return;
    if (changes >= full) {
      chunks.push([]);
      changes = 0;
    }
    chunks.at(-1)?.push(index);
    changes += tensor.changes;
  });
  return chunks;
}

function densePlans(tensors: readonly TensorEntry[], stepsOfChunk: number): ChunkPlan[] {
  const plans: ChunkPlan[] = [];
  let pieces: Piece[] = [];
  let steps = 0;
  const close = (): void => {
    if (pieces.length === 0) return;
    const lanes = steps >= STEPS_FOR_ALL_LANES ? LANES : 1;
    const symbols = pieces.reduce((sum, piece) => sum + piece.count, 0);
    plans.push({ kind: 'dense', lanes, pieces, ...ransBounds(lanes, symbols) });
    pieces = [];
    steps = 0;
  };
  tensors.forEach(({ coder, groups }, tensor) => {
    if (coder.form !== 'dense') return;
    for (let first = 0; first < groups;) {
      const count = Math.min(groups - first, (stepsOfChunk - steps) * LANES);
      pieces.push({ tensor, first, count });
      steps += Math.ceil(count / LANES);
      first += count;
      if (steps === stepsOfChunk) close();
    }
  });
  close();
  return plans;
}

function arithmeticPlans(tensors: readonly TensorEntry[], { chunkLog2, patterns }: LayoutSettings): ChunkPlan[] {
  return tensors.flatMap(({ coder, groups }, tensor) => {
    if (coder.form !== 'arithmetic') return [];
    return Array.from({ length: Math.ceil(groups / 2 ** chunkLog2) }, (_, i): ChunkPlan => {
      const first = i * 2 ** chunkLog2;
      const count = Math.min(2 ** chunkLog2, groups - first);
      const [minBytes, maxBytes] = [arithmetic.minBytes(count, patterns), arithmetic.maxBytes(count, patterns)];
      return { kind: 'arithmetic', piece: { tensor, first, count }, minBytes, maxBytes };
    });
  });
}

function ransBounds(lanes: number, symbols: number): Bounds {
  return { minBytes: STATE_BYTES * lanes, maxBytes: STATE_BYTES * lanes + 2 * symbols };
}
