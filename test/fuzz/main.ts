/** `npm run fuzz -- [--iterations N] [--seed N] [--first N] [--target NAME]`: mutated containers against every target. */
import { parseArgs } from 'node:util';
import { LIMITS } from './target.js';
import { TARGETS } from './targets.js';
import { fuzzTarget } from './watch.js';
import type { FuzzOptions, FuzzReport } from './loop.js';

const values = readArguments();

const options: FuzzOptions = {
  iterations: count('iterations', values.iterations),
  seed: count('seed', values.seed),
  first: count('first', values.first),
};
const targets = values.target === undefined ? Object.keys(TARGETS) : [values.target];
for (const target of targets) {
  const module = TARGETS[target];
  if (module === undefined) fail(`expected --target to be one of ${Object.keys(TARGETS).join(', ')}, got ${target}`);
  const started = performance.now();
  const report = await fuzzTarget(module, options, { hangMs: 20_000, onProgress: showProgress(target) });
  print(target, report, (performance.now() - started) / 1000);
  if (report.violations.length > 0) process.exitCode = 1;
}

function readArguments(): { iterations: string; seed: string; first: string; target?: string } {
  try {
    return parseArgs({
      options: {
        iterations: { type: 'string', default: '200000' },
        seed: { type: 'string', default: '1' },
        first: { type: 'string', default: '0' },
        target: { type: 'string' },
      },
    }).values;
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
  }
}

function print(target: string, report: FuzzReport, seconds: number): void {
  const { iterations, outcomes, memoryGrowthBytes, slowestMs, violations } = report;
  const megabytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(1);
  console.log(`${target}: ${iterations} mutated containers, seed ${options.seed}, ${seconds.toFixed(1)} s`);
  for (const [outcome, inputs] of Object.entries(outcomes).sort(([, a], [, b]) => b - a)) {
    console.log(`  ${outcome.padEnd(20)} ${inputs}`);
  }
  console.log(
    `  memory growth ${megabytes(memoryGrowthBytes)} MB of ${megabytes(LIMITS.memoryGrowthBytes)} MB allowed`,
  );
  console.log(`  slowest input ${slowestMs.toFixed(1)} ms of CPU`);
  for (const violation of violations) console.log(`  VIOLATION ${violation}`);
  console.log(violations.length === 0 ? '  no violation' : `  replay one: npm run fuzz -- ${replay(target)}`);
}

function replay(target: string): string {
  return `--target ${target} --seed ${options.seed} --first INPUT --iterations 1`;
}

function showProgress(target: string): ((done: number) => void) | undefined {
  if (!process.stderr.isTTY) return undefined;
  return (done) => process.stderr.write(`\r${target}: ${done} of ${options.iterations}\r`);
}

function count(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) fail(`expected --${name} to be a whole number, got ${text}`);
  return value;
}

function fail(message: string): never {
  console.error(message);
  process.exit(2);
}
