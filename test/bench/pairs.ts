/** Alternating runs of several ways to do one thing, A B C A B C …: what disturbs the machine disturbs all of them, and ratios are taken run by run. */
import { median } from './forward.js';

export interface Pairs<Name extends string> {
  /** Median milliseconds of each. */
  readonly ms: Readonly<Record<Name, number>>;
  /** How many times as fast `name` is as `than`: the median of the runs' ratios. */
  faster(name: Name, than: Name): number;
}

/** One uncounted run of each, then `runs` rounds. */
export function alternate<Name extends string>(ways: Readonly<Record<Name, () => void>>, runs: number): Pairs<Name> {
  const names = Object.keys(ways) as Name[];
  const rounds: Record<Name, number>[] = [];
  for (let round = -1; round < runs; round++) {
    const ms = {} as Record<Name, number>;
    for (const name of names) {
      const started = performance.now();
      ways[name]();
      ms[name] = performance.now() - started;
    }
    if (round >= 0) rounds.push(ms);
  }
  const medians = names.map((name) => [name, median(rounds.map((ms) => ms[name]))]);
  return {
    ms: Object.fromEntries(medians) as Record<Name, number>,
    faster: (name, than) => median(rounds.map((ms) => ms[than] / ms[name])),
  };
}
