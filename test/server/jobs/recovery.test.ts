/** What a store may hold at the start of a server, and what becomes of it. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { loadModel } from '../../../server/engine/model.js';
import type { TrainJobJson } from '../../../server/http/train-response.js';
import { NO_PROGRESS } from '../../../server/jobs/progress.js';
import { orderOf } from '../../../server/jobs/request.js';
import type { JobRecord, TrainOrder } from '../../../server/jobs/types.js';
import { maskTrainingDefaults } from '../../../server/trainer/defaults.js';
import { TINY } from '../../tiny.js';
import { eventually, startRealServer, type RealServer } from '../http/real-server.js';
import { finishedJob, smallJob } from './small-job.js';

const LIMITS = { contextLength: 512, vocabularySize: 4096 };
const ID = (n: number): string => n.toString(16).padStart(16, '0');

describe('a server on a store that holds jobs', () => {
  const store = mkdtempSync(join(tmpdir(), 'maskserve-recovery-'));
  let jobs = '';
  let server: RealServer;

  function put(record: Partial<JobRecord> & { readonly id: string }, text = smallJob('cats')): void {
    const folder = join(jobs, record.id);
    mkdirSync(folder, { recursive: true });
    const whole: JobRecord = {
      ...{ state: 'queued', createdAt: Number.parseInt(record.id, 16), crashes: 0, progress: NO_PROGRESS },
      order: orderOf(text, LIMITS),
      ...record,
    };
    writeFileSync(join(folder, 'request.json'), JSON.stringify(text));
    writeFileSync(join(folder, 'state.json'), JSON.stringify({ format: 1, ...whole }));
  }

  /** Without a constant that came later. */
  function ofAnEarlierVersion(): TrainOrder {
    const order = orderOf(smallJob('cats'), LIMITS);
    const entries = Object.entries(order.settings).filter(([name]) => name !== 'margin');
    return { ...order, settings: Object.fromEntries(entries) as unknown as TrainOrder['settings'] };
  }

  before(async () => {
    const model = loadModel(TINY);
    jobs = join(store, model.info.base, 'jobs');
    model.dispose();
    put({ id: ID(1), state: 'running', crashes: 2 });
    put({ id: ID(2), state: 'running', crashes: 1, order: ofAnEarlierVersion() });
    put({ id: ID(3), state: 'failed', endedAt: 5, failure: { code: 'training_failed', message: 'why' } });
    for (let n = 16; n < 16 + 60; n++) put({ id: ID(n), state: 'cancelled', endedAt: n });
    mkdirSync(join(jobs, ID(4)));
    writeFileSync(join(jobs, ID(4), 'request.json'), '{');
    mkdirSync(join(jobs, ID(5)));
    writeFileSync(join(jobs, ID(5), 'state.json'), '{"format": 1');
    mkdirSync(join(jobs, 'tmp'));
    writeFileSync(join(jobs, 'tmp', 'unfinished'), 'x');
    server = await startRealServer({ config: { store } });
  });
  after(async () => {
    await server.close();
    rmSync(store, { recursive: true });
  });

  it('gives up a job that was there each time the server went down', async () => {
    const job = (await (await server.get(`/v1/train/${ID(1)}`)).json()) as TrainJobJson;
    assert.deepEqual([job.state, job.error?.code], ['failed', 'interrupted']);
    assert.match(
      job.error?.message ?? '',
      /^the server ended 3 times while this job was at the same place; .*lower batch/,
    );
  });

  it('goes on with one that was there once or twice', async () => {
    const { job } = await finishedJob(server.url, ID(2));
    assert.equal(job.state, 'finished', job.error?.message);
    assert.equal(job.settings.margin, maskTrainingDefaults('ste', false).margin);
  });

  it('keeps the records of the last fifty that are over, and none of their text', async () => {
    const list = async (): Promise<TrainJobJson[]> =>
      ((await (await server.get('/v1/train')).json()) as { data: TrainJobJson[] }).data;
    await eventually('fifty are left', async () => (await list()).length === 50);
    const data = await list();
    assert.equal(data[0]?.id, ID(75));
    assert.deepEqual(readdirSync(join(jobs, ID(75))), ['state.json']);
    assert.equal(existsSync(join(jobs, ID(3))), false);
  });

  it('deletes what was never acknowledged, and leaves what it can not read', () => {
    assert.equal(existsSync(join(jobs, ID(4))), false);
    assert.deepEqual(readdirSync(join(jobs, 'tmp')), []);
    assert.equal(readFileSync(join(jobs, ID(5), 'state.json'), 'utf8'), '{"format": 1');
  });
});
