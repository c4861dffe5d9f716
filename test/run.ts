/**
 * Runs every test file, each in a process of its own: `node --test`, but on all cores. That leaves one idle, which on two cores is half the
 * machine, and most of these tests wait: for a server, a disk or a child that is killed.
 */
import { globSync } from 'tinyglobby';
import { availableParallelism } from 'node:os';
import { dirname } from 'node:path';
import { run } from 'node:test';
import { spec, tap } from 'node:test/reporters';
import { fileURLToPath } from 'node:url';

const files = globSync('**/*.test.js', { cwd: dirname(fileURLToPath(import.meta.url)), absolute: true }).sort();
const events = run({ files, concurrency: availableParallelism() });
events.on('test:fail', ({ todo }) => {
  if (todo === undefined) process.exitCode = 1;
});
const told = process.stdout.isTTY ? events.compose(new spec()) : events.compose(tap);
told.pipe(process.stdout);
