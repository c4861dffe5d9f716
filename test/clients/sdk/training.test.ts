import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { MaskServe, MaskServeError, type TrainRequest } from '../../../clients/sdk/index.js';
import { sampleMask, startRealServer, type RealServer } from '../../server/http/real-server.js';
import { ENDLESS, SMALL_SETTINGS } from '../../server/jobs/small-job.js';
import { DOCUMENTS } from '../../server/trainer/runs.js';

describe('training by the SDK', () => {
  let server: RealServer;
  let client: MaskServe;
  const request: TrainRequest = {
    task: 'cats',
    sources: [{ name: 'cats', documents: DOCUMENTS }],
    settings: { ...SMALL_SETTINGS, ...ENDLESS },
  };
  const refused = (code: string) => (error: unknown) => error instanceof MaskServeError && error.code === code;

  before(async () => {
    server = await startRealServer({ config: { trainThreads: 1 } });
    client = new MaskServe({ baseUrl: server.url });
  });
  after(() => server.close());

  it('starts a job, which goes on when the loop over its events is left, and cancels it', async () => {
    const { id, state } = await client.training.start(request, { ifAbsent: true });
    assert.ok(state === 'queued' || state === 'running');
    for await (const event of client.training.events(id)) if (event.type === 'started') break;
    const { event } = await client.training.get(id);
    assert.ok(event?.type === 'started' || event?.type === 'step');
    assert.deepEqual(
      (await client.training.list()).map((job) => job.id),
      [id],
    );
    assert.equal((await client.training.cancel(id))?.state, 'cancelled');
    assert.equal(await client.training.cancel(id), undefined);
    await assert.rejects(client.training.get(id), refused('job_not_found'));
  });

  it('is refused where a precondition does not hold, or a setting is wrong', async () => {
    const { bytes, digest } = sampleMask(server, 1);
    await client.masks.put('cats', bytes);
    await assert.rejects(client.training.start(request, { ifAbsent: true }), refused('precondition_failed'));
    await assert.rejects(client.training.start(request, { ifMatch: '0'.repeat(64) }), refused('precondition_failed'));
    const job = await client.training.start(request, { ifMatch: digest });
    await client.training.cancel(job.id);
    await assert.rejects(client.training.start({ ...request, settings: { steps: -1 } }), (error: unknown) => {
      assert.ok(error instanceof MaskServeError);
      assert.deepEqual([error.code, error.param], ['invalid_request', 'settings.steps']);
      return true;
    });
  });

  it('stops watching when its signal is aborted', async () => {
    const { id } = await client.training.start(request);
    const stop = new AbortController();
    const watch = async (): Promise<void> => {
      for await (const event of client.training.events(id, { signal: stop.signal })) {
        if (event.type === 'job') stop.abort(new Error('enough'));
      }
    };
    await assert.rejects(watch(), /enough/);
    await client.training.cancel(id);
  });
});
