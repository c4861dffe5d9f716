/** `npm run bench -- codec`: what masks cost and how fast they are coded. Sizes are exact; speeds are of this run. */
import { barTable, codecBars, type CodecBar } from './codec-bars.js';
import { preparedSets, randomSet, tinySets, type MeasuredSet } from './codec-sets.js';
import { measureSet, sizeTable, type SetFigures } from './codec-sizes.js';
import { measureCodecSpeed, speedTable, type Clock, type SpeedFigures } from './codec-speed.js';

export interface CodecBenchOptions {
  readonly runs: number;
  readonly threads: number;
  readonly clock: Clock;
  /** A prepared base, and containers of patches of its general mask: row (e). */
  readonly prepared?: string;
  readonly patches: readonly string[];
  /** Told each set as it is measured: all of them take minutes. */
  readonly onSet?: (name: string) => void;
}

export interface CodecFigures {
  readonly sets: readonly SetFigures[];
  readonly speed: SpeedFigures;
  readonly bars: readonly CodecBar[];
}

export function measureCodec(options: CodecBenchOptions): CodecFigures {
  const speed = measureCodecSpeed(options.threads, options.runs, options.clock);
  const sets: SetFigures[] = [];
  for (const set of allSets(options)) {
    options.onSet?.(set.name);
    sets.push(measureSet(set));
  }
  return { sets, speed, bars: codecBars(sets, speed) };
}

export function codecTable({ sets, speed, bars }: CodecFigures): string {
  return [sizeTable(sets), speedTable(speed), barTable(bars)].join('\n');
}

function* allSets({ prepared, patches }: CodecBenchOptions): Generator<MeasuredSet> {
  yield randomSet();
  yield* tinySets();
  if (prepared !== undefined) yield* preparedSets(prepared, patches);
}
