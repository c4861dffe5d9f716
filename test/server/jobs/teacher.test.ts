/** A job that first tunes its teacher, stopped in the middle of that. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { startRealServer, type RealServer } from '../http/real-server.js';
import { eventWhere, finishedJob, postJob, smallJob } from './small-job.js';

const store = mkdtempSync(join(tmpdir(), 'maskserve-teacher-'));
after(() => rmSync(store, { recursive: true }));
const start = (): Promise<RealServer> => {
  return startRealServer({ config: { store, trainThreads: 1, trainCheckpointSeconds: 0 } });
};

test('a job that is stopped while it tunes its teacher goes on there, and learns from it', async () => {
  let server = await start();
  const body = smallJob('cats', { loss: 'kl', steps: 2 }, { tuneTeacher: { steps: 6, rank: 4 }, force: true });
  const job = await postJob(server.url, body);
  assert.deepEqual(job.tuneTeacher, { steps: 6, rank: 4, learningRate: 1e-3 });
  await eventWhere(
    server.url,
    job.id,
    (event) => event.type === 'progress' && /teacher/.test(event.stage) && event.done >= 2,
  );
  await server.close();

  server = await start();
  const { events, job: over } = await finishedJob(server.url, job.id);
  await server.close();
  const tuned = events.flatMap((event) => (event.type === 'progress' && event.done > 0 ? [event.done] : []));
  assert.ok((tuned[0] ?? 0) >= 3, `it went on at step ${String(tuned[0])}`);
  assert.equal(tuned.at(-1), 6);
  const started = events.find((event) => event.type === 'started');
  assert.ok(started?.teacher && started.teacher.perplexity > 1);
  assert.equal(over.state, 'finished', over.error?.message);
});
