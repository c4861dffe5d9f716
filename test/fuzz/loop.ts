/** Runs one target over mutated containers and keeps the books. */
import { makeCorpus, mutatedInput } from './mutate.js';
import { LIMITS, type FuzzTarget } from './target.js';

export interface FuzzOptions {
  readonly seed: number;
  /** Number of the first input: a single one is run again by `--first N --iterations 1`. */
  readonly first: number;
  readonly iterations: number;
}

export interface FuzzReport {
  readonly iterations: number;
  /** Inputs by how they ended. */
  readonly outcomes: Readonly<Record<string, number>>;
  /** Largest resident memory after the warm-up, less that at its end. */
  readonly memoryGrowthBytes: number;
  /** Of the process: a machine may be busy. */
  readonly slowestMs: number;
  readonly violations: readonly string[];
}

/** Inputs until code is compiled and heaps have their size. */
const WARM_UP = 1_000;
const INPUTS_PER_MEMORY_SAMPLE = 16;
const MOST_VIOLATIONS = 10;

/** `progress` is called before each input, with the number of inputs done. */
export async function fuzz(
  target: FuzzTarget,
  { seed, first, iterations }: FuzzOptions,
  progress: (done: number) => void,
): Promise<FuzzReport> {
  const corpus = makeCorpus();
  const outcomes: Record<string, number> = {};
  const violations: string[] = [];
  let baseline = process.memoryUsage.rss();
  let [peak, slowestMs, done] = [baseline, 0, 0];
  for (; done < iterations && violations.length < MOST_VIOLATIONS; done++) {
    progress(done);
    const input = mutatedInput(corpus, seed, first + done);
    const started = process.cpuUsage();
    let ended: string;
    try {
      ended = await target.run(input);
    } catch (error) {
      ended = 'violation';
      violations.push(
        `input ${first + done} (${input.history}): ${error instanceof Error ? error.stack : String(error)}`,
      );
    }
    outcomes[ended] = (outcomes[ended] ?? 0) + 1;
    const { user, system } = process.cpuUsage(started);
    const milliseconds = (user + system) / 1000;
    slowestMs = Math.max(slowestMs, milliseconds);
    if (milliseconds > LIMITS.millisecondsPerInput) {
      violations.push(`input ${first + done} (${input.history}): took ${Math.round(milliseconds)} ms of CPU`);
    }
    if (done === WARM_UP) baseline = peak = process.memoryUsage.rss();
    else if (done % INPUTS_PER_MEMORY_SAMPLE === 0) peak = Math.max(peak, process.memoryUsage.rss());
  }
  const memoryGrowthBytes = peak - baseline;
  if (memoryGrowthBytes > LIMITS.memoryGrowthBytes) {
    violations.push(`resident memory grew by ${(memoryGrowthBytes / 2 ** 20).toFixed(1)} MB`);
  }
  return { iterations: done, outcomes, memoryGrowthBytes, slowestMs, violations };
}
