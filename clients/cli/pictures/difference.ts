/** How far one mask set is from another, matrix by matrix. */
import type { ContainerSummary } from '../../../codec/decode.js';
import { patternTable } from '../../../codec/pattern.js';
import type { MaskSource } from './mask-source.js';

export interface Difference {
  readonly groups: number;
  /** Groups with another pattern. */
  readonly changed: number;
  /** Changed groups where one kept weight went out and one came in. */
  readonly singleSwaps: number;
  /**
   * Σ over matrices of groups · H(B's pattern | A's pattern), in bits: what the empirical table of pattern pairs of each matrix would
   * charge an ideal coder that knows A, the table itself not counted.
   */
  readonly bits: number;
  readonly parameters: number;
}

export interface MatrixDifference extends Difference {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
}

/**
 * Compares B with A, in A's order of tensors, with one tensor of each in memory. Throws one line if they are for other base weights,
 * of another n:m, or of other matrices.
 */
export function compareMasks(
  a: MaskSource,
  b: MaskSource,
  onTensor: (done: number, of: number) => void = () => undefined,
): MatrixDifference[] {
  const indexInB = matchTensors(a, b);
  const { n, m, tensors } = a.summary;
  return tensors.map(({ name, rows, cols }, index) => {
    onTensor(index, tensors.length);
    const difference = compareSymbols(a.symbols(index), b.symbols(indexInB[index] as number), n, m);
    return { name, rows, cols, ...difference };
  });
}

/** Compares the symbols of one matrix, group by group. */
export function compareSymbols(a: Uint8Array, b: Uint8Array, n: number, m: number): Difference {
  const { count, masks } = patternTable(n, m);
  const pairs = new Float64Array(count * count); // (A's symbol, B's symbol)
  for (let i = 0; i < a.length; i++) pairs[(a[i] as number) * count + (b[i] as number)]! += 1;
  let [changed, singleSwaps, bits] = [0, 0, 0];
  for (let from = 0; from < count; from++) {
    const row = pairs.subarray(from * count, (from + 1) * count);
    const total = row.reduce((sum, pair) => sum + pair, 0);
    row.forEach((pair, to) => {
      if (pair === 0) return;
      bits -= pair * Math.log2(pair / total);
      if (to === from) return;
      changed += pair;
      if (isSingleSwap(masks[from] as number, masks[to] as number)) singleSwaps += pair;
    });
  }
  return { groups: a.length, changed, singleSwaps, bits, parameters: a.length * m };
}

export function totalDifference(differences: readonly Difference[]): Difference {
  const sum = (of: keyof Difference): number => differences.reduce((total, difference) => total + difference[of], 0);
  return {
    groups: sum('groups'),
    changed: sum('changed'),
    singleSwaps: sum('singleSwaps'),
    bits: sum('bits'),
    parameters: sum('parameters'),
  };
}

export function changedShare({ changed, groups }: Difference): number {
  return changed / groups;
}

/** Of the changed groups; null where none is. */
export function singleSwapShare({ singleSwaps, changed }: Difference): number | null {
  return changed === 0 ? null : singleSwaps / changed;
}

export function bitsPerParameter({ bits, parameters }: Difference): number {
  return bits / parameters;
}

/** Index in B of each of A's tensors. */
function matchTensors(a: MaskSource, b: MaskSource): number[] {
  const expected = `expected two masks for the same weights, but`;
  if (a.summary.base !== b.summary.base) {
    throw new Error(`${expected} ${a.name} is for the base ${a.summary.base} and ${b.name} for ${b.summary.base}`);
  }
  if (ratio(a.summary) !== ratio(b.summary)) {
    throw new Error(`${expected} ${a.name} is ${ratio(a.summary)} and ${b.name} is ${ratio(b.summary)}`);
  }
  const indices = new Map(b.summary.tensors.map(({ name }, index) => [name, index]));
  const matched = a.summary.tensors.map(({ name, rows, cols }) => {
    const index = indices.get(name);
    const other = index === undefined ? undefined : b.summary.tensors[index];
    if (index === undefined || other === undefined) throw new Error(`${expected} ${b.name} has no ${name}`);
    if (other.rows === rows && other.cols === cols) return index;
    throw new Error(
      `${expected} ${name} is ${rows} × ${cols} in ${a.name} and ${other.rows} × ${other.cols} in ${b.name}`,
    );
  });
  const names = new Set(a.summary.tensors.map(({ name }) => name));
  const more = b.summary.tensors.find(({ name }) => !names.has(name));
  if (more !== undefined) throw new Error(`${expected} ${a.name} has no ${more.name}`);
  return matched;
}

function ratio({ n, m }: ContainerSummary): string {
  return `${n}:${m}`;
}

function isSingleSwap(from: number, to: number): boolean {
  const isPowerOf2 = (bits: number): boolean => bits !== 0 && (bits & (bits - 1)) === 0;
  return isPowerOf2(from & ~to) && isPowerOf2(to & ~from);
}
