/**
 * A process that publishes to a store until it is killed, and says on stdout what was acknowledged: `ready`, then for each publish
 * `try TASK DIGEST SEED` before and `ack TASK DIGEST SEED` after. Run by kill.test.ts: node publish-loop.js DIRECTORY SEED
 */
import { writeSync } from 'node:fs';
import { Readable } from 'node:stream';
import { openDiskRegistry } from '../../../server/store/disk-registry.js';
import { loopContainer, loopModel, LOOP_TASKS } from './loop-masks.js';
import { digestOf, randomFrom } from './sample-masks.js';

const [directory = '', seed = '0'] = process.argv.slice(2);
const random = randomFrom(Number(seed));
const registry = await openDiskRegistry({ directory, model: loopModel() });
say('ready');
for (let i = 0; ; i++) {
  const task = LOOP_TASKS[Math.floor(random() * LOOP_TASKS.length)]!;
  const containerSeed = Number(seed) * 1000 + i;
  const bytes = loopContainer(containerSeed);
  const digest = digestOf(bytes);
  say(`try ${task} ${digest} ${containerSeed}`);
  await registry.publish(task, Readable.from(piecesOf(bytes)), { maxBytes: bytes.length });
  say(`ack ${task} ${digest} ${containerSeed}`);
}

/** Synchronous, so that a line which was written before the kill is read after it. */
function say(line: string): void {
  writeSync(1, `${line}\n`);
}

function* piecesOf(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 4096) yield bytes.subarray(at, at + 4096);
}
