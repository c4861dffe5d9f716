/** The coders of the second decoder, from FORMAT.md §5, §7, §8 and §9 alone: plain numbers, one symbol at a time. */

/** Frequencies of each symbol. */
export type SimpleTable = readonly number[];

/** What a coder may look at. */
export interface SimpleSources {
  readonly n: number;
  readonly m: number;
  /** The parent's symbols of the tensor. */
  readonly parent?: readonly number[];
  readonly weights?: Uint16Array;
  /** What is added to the values of each column. */
  readonly scales?: readonly number[];
}

/** Patterns of n:m in lexicographic order, each as its kept positions (§2). */
export function patternsOf(n: number, m: number): number[][] {
  const patterns: number[][] = [];
  const extend = (kept: number[]): void => {
    if (kept.length === n) patterns.push(kept);
    else for (let next = (kept.at(-1) ?? -1) + 1; next < m; next++) extend([...kept, next]);
  };
  extend([]);
  return patterns;
}

/** §5: the frequencies of a table's codes. */
export function frequenciesOf(codes: readonly number[]): number[] {
  const known = codes.map((c) => (c === 255 ? 0 : c <= 15 ? c : (16 + (c % 16)) * 2 ** (Math.floor(c / 16) - 1)));
  const left = 2 ** 14 - known.reduce((sum, frequency) => sum + frequency, 0);
  return codes.map((c, i) => (c === 255 ? left : known[i]!));
}

/** §5: a table that is left out; in patch lists without the symbol `excluded`. */
export function uniformFrequencies(symbols: number, excluded = -1): number[] {
  const others = excluded < 0 ? symbols : symbols - 1;
  const share = (i: number): number => Math.floor((2 ** 14 * (i + 1)) / others) - Math.floor((2 ** 14 * i) / others);
  let i = 0;
  return Array.from({ length: symbols }, (_, symbol) => (symbol === excluded ? 0 : share(i++)));
}

/** §8.1. */
export class SimpleRans {
  private readonly states: bigint[];
  private at: number;

  constructor(
    private readonly chunk: Buffer,
    lanes: number,
  ) {
    this.states = Array.from({ length: lanes }, (_, lane) => BigInt(chunk.readUInt32LE(4 * lane)));
    this.at = 4 * lanes;
  }

  symbol(lane: number, table: SimpleTable): number {
    const x = this.states[lane]!;
    const slot = Number(x % 16384n);
    let cum = 0;
    let s = 0;
    while (slot >= cum + table[s]!) cum += table[s++]!;
    this.set(lane, BigInt(table[s]!) * (x / 16384n) + BigInt(slot - cum));
    return s;
  }

  raw(bits: number): number {
    if (bits > 14) return this.raw(14) + this.raw(bits - 14) * 2 ** 14;
    const x = this.states[0]!;
    this.set(0, x / 2n ** BigInt(bits));
    return Number(x % 2n ** BigInt(bits));
  }

  get ended(): boolean {
    return this.at === this.chunk.length && this.states.every((x) => x === 65536n);
  }

  private set(lane: number, x: bigint): void {
    if (x >= 65536n) {
      this.states[lane] = x;
      return;
    }
    this.states[lane] = x * 65536n + BigInt(this.chunk.readUInt16LE(this.at));
    this.at += 2;
  }
}

/** §2: positions of a group by rank, and D, A and B. */
function ranksOf(
  group: number,
  { n, m, weights, scales }: SimpleSources,
): { order: number[]; D: number; A: number; B: number } {
  const v = Array.from({ length: m }, (_, i) => {
    const value = weights![group * m + i]! & 0x7fff;
    return scales === undefined
      ? value
      : Math.max(0, Math.min(32767, value + scales[(group * m + i) % scales.length]!));
  });
  const order = [...v.keys()].sort((a, b) => v[b]! - v[a]! || a - b);
  const V = order.map((position) => v[position]!);
  return {
    order,
    D: V[n - 1]! - V[n]!,
    A: n === 1 ? 0 : V[n - 2]! - V[n - 1]!,
    B: n + 1 === m ? 0 : V[n]! - V[n + 1]!,
  };
}

const q = (x: number, ...thresholds: number[]): number => thresholds.filter((t) => t <= x).length;

/** §7: the context of a group, and what its coded symbol stands for. */
export function groupModel(
  coder: number,
  group: number,
  sources: SimpleSources,
): { context: number; symbolOf: (coded: number) => number } {
  const same = (coded: number): number => coded;
  const parentSymbol = sources.parent?.[group] ?? 0;
  if (coder === 2 || coder === 3) return { context: 0, symbolOf: same };
  if (coder === 4 || coder === 8) return { context: parentSymbol, symbolOf: same };
  const patterns = patternsOf(sources.n, sources.m);
  const numberOf = (kept: number[]): number =>
    patterns.findIndex((one) => one.join() === kept.sort((a, b) => a - b).join());
  const { order, D, A, B } = ranksOf(group, coder === 6 ? sources : { ...sources, scales: undefined });
  const symbolOf = (coded: number): number => numberOf(patterns[coded]!.map((rank) => order[rank]!));
  if (coder === 10) return { context: 0, symbolOf };
  const T = [20, 60, 140];
  if (coder === 5 || coder === 6) return { context: 16 * q(D, ...T) + 4 * q(A, ...T) + q(B, ...T), symbolOf };
  const K = numberOf(patterns[parentSymbol]!.map((position) => order.indexOf(position)));
  return { context: 10 * K + 2 * q(D, 8, 20, 40, 80) + q(Math.min(A, B), 24), symbolOf };
}
