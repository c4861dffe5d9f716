/**
 * Publishes a mask file under a task's name, and only if nobody else publishes there meanwhile; then asks the new task for a text.
 *
 *     node dist/clients/examples/publish-mask.js poems models/tiny/masks/french.mask
 */
import { createHash } from 'node:crypto';
import { createReadStream, openAsBlob } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { MaskServeError } from '../sdk/index.js';
import { connect } from './server.js';

const [task, file] = process.argv.slice(2);
if (task === undefined || file === undefined) {
  console.error('usage: publish-mask TASK FILE');
  process.exit(2);
}
const client = connect(task);

const hash = createHash('sha256');
await pipeline(createReadStream(file), hash);
const digest = hash.digest('hex');

const current = await client.masks.get(task).catch((error: unknown) => {
  if (error instanceof MaskServeError && error.code === 'task_not_found') return undefined;
  throw error;
});
const published = await client.masks.put(task, await openAsBlob(file), {
  digest,
  ...(current ? { ifMatch: current.digest } : { ifAbsent: true }),
});
console.log(`${published.task} is ${published.digest}, ${published.bits_per_parameter.toFixed(4)} bits a parameter`);

const { choices } = await client.complete({ prompt: 'The', max_tokens: 16, temperature: 0 });
console.log(`The${choices[0]?.text ?? ''}`);
