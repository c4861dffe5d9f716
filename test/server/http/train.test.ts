/** /v1/train on the real server: jobs of a second or two that really train, and all that can be wrong with a request. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import { contentDigest } from '../../../codec/content-digest.js';
import { ContainerReader } from '../../../codec/decode.js';
import { DEFAULT_METHOD, maskTrainingDefaults } from '../../../server/trainer/defaults.js';
import type { TrainJobJson } from '../../../server/http/train-response.js';
import { shippedSet } from '../../shipped-masks.js';
import { TINY } from '../../tiny.js';
import { ENDLESS, eventWhere, finishedJob, getJob, postJob, smallJob } from '../jobs/small-job.js';
import { DOCUMENTS } from '../trainer/runs.js';
import { eventsOf, eventually, refusal, sampleMask, startRealServer, type RealServer } from './real-server.js';

const GENERAL = readFileSync(join(TINY, 'masks', 'general.mask'));

async function cancel(server: RealServer, id: string): Promise<TrainJobJson> {
  const response = await server.get(`/v1/train/${id}`, { method: 'DELETE' });
  assert.equal(response.status, 200);
  return (await response.json()) as TrainJobJson;
}

/** Native buffers that live, whoever made them. */
async function buffers(server: RealServer): Promise<number> {
  const text = await (await server.get('/metrics')).text();
  return Number(/^maskserve_native_buffers (\d+)$/m.exec(text)?.[1]);
}

async function complete(server: RealServer, task: string): Promise<Response> {
  const response = await server.post('/v1/completions', { prompt: 'The cat', max_tokens: 4 }, { 'X-Task': task });
  await response.text();
  return response;
}

describe('/v1/train', () => {
  let server: RealServer;
  before(async () => {
    server = await startRealServer({ config: { trainThreads: 1, trainQueue: 2 } });
    assert.equal((await server.publish('general', GENERAL)).status, 201);
  });
  after(() => server.close());

  it('serves while it trains, and cancels: the task is as it was', async () => {
    assert.equal((await complete(server, 'general')).status, 200);
    const before = await buffers(server);
    const job = await postJob(server.url, smallJob('endless', ENDLESS));
    await eventWhere(server.url, job.id, (event) => event.type === 'step' && event.step >= 2);
    assert.equal((await complete(server, 'general')).status, 200);
    assert.ok((await buffers(server)) > before);
    const running = await getJob(server.url, job.id);
    assert.deepEqual([running.state, running.position, running.event?.type], ['running', 0, 'step']);
    assert.equal((await cancel(server, job.id)).state, 'cancelled');
    assert.equal((await finishedJob(server.url, job.id)).job.state, 'cancelled');
    assert.equal((await complete(server, 'endless')).status, 404);
    await eventually('all of its memory is free again', async () => (await buffers(server)) === before);
    const forgotten = await server.get(`/v1/train/${job.id}`, { method: 'DELETE' });
    assert.equal(forgotten.status, 204);
    const { status, code } = await refusal(await server.get(`/v1/train/${job.id}`));
    assert.deepEqual([status, code], [404, 'job_not_found']);
  });

  it('learns a mask from the text of the request and publishes it: the next request is served by it', async () => {
    const job = await postJob(
      server.url,
      smallJob('cats', {}, { from: 'general', guards: [{ name: 'g', documents: DOCUMENTS }] }),
    );
    assert.deepEqual([job.task, job.from], ['cats', 'general']);
    assert.match(job.id, /^[0-9a-f]{16}$/);
    assert.ok(job.state === 'running' || job.state === 'queued');
    const { events, job: over } = await finishedJob(server.url, job.id);
    const types = events.map(({ type }) => type).filter((type) => type !== 'progress');
    assert.deepEqual(types.slice(types.indexOf('started')), [
      'started',
      ...Array<string>(6).fill('step'),
      'finished',
      'job',
    ]);
    assert.equal(over.state, 'finished');
    assert.equal(over.position, null);
    assert.deepEqual(
      over.finished?.heldOut.map(({ source, guard }) => [source, guard]),
      [
        ['cats.txt', false],
        ['g', true],
      ],
    );
    assert.deepEqual(await getJob(server.url, job.id), over);
    const completion = await complete(server, 'cats');
    assert.equal(completion.headers.get('x-mask-digest'), over.digest);
    const bytes = new Uint8Array(await (await server.get('/v1/masks/cats')).arrayBuffer());
    assert.equal(createHash('sha256').update(bytes).digest('hex'), over.digest);
    assert.equal(bytes.length, over.bytes);
    const { parent, needs } = new ContainerReader(bytes).summary;
    const general = contentDigest(shippedSet('general'));
    assert.deepEqual([parent, needs.parent], [general, general], 'a patch of its parent');
  });

  it('fills in the defaults of the trainer; a travel that is given wins over a learning rate that is not', async () => {
    const settings = { ...ENDLESS, batch: 2, seq: 64, evaluateWindows: 2 };
    const ste = await postJob(server.url, {
      ...smallJob('defaults', {}, { from: 'general' }),
      settings: { ...settings, clip: null },
    });
    assert.deepEqual(ste.settings, { ...maskTrainingDefaults(DEFAULT_METHOD, true), ...settings });
    await cancel(server, ste.id);
    const gumbel = await postJob(server.url, {
      ...smallJob('defaults'),
      settings: { ...settings, method: 'gumbel', travel: 3, prior: 'none' },
    });
    const { learningRate, ...defaults } = maskTrainingDefaults('gumbel', false);
    assert.ok(learningRate);
    assert.deepEqual(gumbel.settings, { ...defaults, ...settings, method: 'gumbel', travel: 3, prior: 'none' });
    await cancel(server, gumbel.id);
  });

  it('runs one job, lets a bounded number wait in their order, and says 429 beyond', async () => {
    const first = await postJob(server.url, smallJob('q', ENDLESS));
    await eventWhere(server.url, first.id, ({ type }) => type === 'started');
    const [second, third] = [
      await postJob(server.url, smallJob('q', ENDLESS)),
      await postJob(server.url, smallJob('q')),
    ];
    assert.deepEqual([second.position, third.position], [1, 2]);
    const full = await server.post('/v1/train', smallJob('q'));
    assert.ok(Number(full.headers.get('retry-after')) >= 1);
    const { status, code, message } = await refusal(full);
    assert.deepEqual([status, code], [429, 'queue_full']);
    assert.match(message, /2 jobs wait.*--train-queue/);
    const listed = (await (await server.get('/v1/train')).json()) as { data: TrainJobJson[] };
    assert.deepEqual(
      listed.data.slice(0, 3).map(({ id, state }) => [id, state]),
      [
        [third.id, 'queued'],
        [second.id, 'queued'],
        [first.id, 'running'],
      ],
    );
    const metrics = await (await server.get('/metrics')).text();
    assert.match(metrics, /^maskserve_train_jobs\{state="queued"\} 2$/m);
    assert.match(metrics, /^maskserve_train_jobs\{state="running"\} 1$/m);
    assert.match(metrics, /^maskserve_train_tokens_total [1-9]\d*$/m);
    assert.equal((await cancel(server, second.id)).state, 'cancelled');
    const moved = eventWhere(server.url, third.id, (event) => event.type === 'job' && event.job.position === 0);
    await cancel(server, first.id);
    await moved;
    assert.equal((await finishedJob(server.url, third.id)).job.state, 'finished');
  });

  it('publishes over whatever came meanwhile, unless If-Match asked for a version', async () => {
    const before = sampleMask(server, 1);
    await server.publish('watched', before.bytes);
    const blocker = await postJob(server.url, smallJob('q', ENDLESS));
    const strict = await postJob(server.url, smallJob('watched'), { 'If-Match': `"${before.digest}"` });
    const wrong = await server.post('/v1/train', smallJob('watched'), { 'If-Match': `"${'0'.repeat(64)}"` });
    assert.deepEqual((({ status, code }) => [status, code])(await refusal(wrong)), [412, 'precondition_failed']);
    const lax = await postJob(server.url, smallJob('watched', { seed: 1 }));
    const meanwhile = sampleMask(server, 2);
    await server.publish('watched', meanwhile.bytes);
    await cancel(server, blocker.id);
    const { job: refused } = await finishedJob(server.url, strict.id);
    assert.deepEqual([refused.state, refused.error?.code, refused.digest], ['failed', 'precondition_failed', null]);
    const { job: published } = await finishedJob(server.url, lax.id);
    assert.equal(published.state, 'finished');
    assert.equal((await complete(server, 'watched')).headers.get('x-mask-digest'), published.digest);
  });

  it('does not publish a mask that loses to its prior, and says by how much; force does', async () => {
    const ruin = { learningRate: 3, steps: 2, clip: 0 };
    const { job } = await finishedJob(server.url, (await postJob(server.url, smallJob('worse', ruin))).id);
    assert.equal(job.state, 'failed');
    assert.equal(job.error?.code, 'lost_to_prior');
    assert.match(job.error?.message ?? '', /loses to its prior.*perplexity [\d.]+ against [\d.]+/);
    assert.equal((await complete(server, 'worse')).status, 404);
    const forced = await finishedJob(
      server.url,
      (await postJob(server.url, smallJob('worse', ruin, { force: true }))).id,
    );
    assert.equal(forced.job.state, 'finished');
    assert.equal((await complete(server, 'worse')).status, 200);
  });

  it('fails a job that can not be trained with the trainer’s own line, and goes on with the next', async () => {
    const short = { ...smallJob('short'), sources: [{ name: 'one.txt', documents: ['a', 'b'] }] };
    const [bad, good] = [
      await postJob(server.url, short),
      await postJob(server.url, smallJob('good', { steps: 1, evaluateEvery: 0 }, { force: true })),
    ];
    const { job } = await finishedJob(server.url, bad.id);
    assert.deepEqual([job.state, job.error?.code], ['failed', 'training_failed']);
    assert.match(job.error?.message ?? '', /expected more than 64 tokens of .*one\.txt/);
    assert.equal((await finishedJob(server.url, good.id)).job.state, 'finished');
  });

  it('tells late watchers what happened, in short, and ends', async () => {
    const { data } = (await (await server.get('/v1/train')).json()) as { data: TrainJobJson[] };
    const finished = data.find(({ task }) => task === 'cats') as TrainJobJson;
    const events = eventsOf(await (await server.get(`/v1/train/${finished.id}/events`)).text());
    const types = events.map((text) => (text === '[DONE]' ? text : (JSON.parse(text) as { type: string }).type));
    assert.deepEqual(types, ['job', 'started', 'step', 'step', 'finished', 'job', '[DONE]']);
    const head = await server.get(`/v1/train/${finished.id}/events`, { method: 'HEAD' });
    assert.match(head.headers.get('content-type') ?? '', /^text\/event-stream/);
  });

  it('takes a gzipped body, and text beyond ASCII', async () => {
    const body = smallJob(
      'zipped',
      { ...ENDLESS },
      { sources: [{ name: 'été', documents: DOCUMENTS.map((text) => `été ${text}`) }] },
    );
    const response = await server.get('/v1/train', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'Content-Encoding': 'gzip' },
      body: gzipSync(JSON.stringify(body)),
    });
    const job = (await response.json()) as TrainJobJson;
    assert.equal(response.status, 202);
    assert.deepEqual(job.sources, [{ name: 'été', documents: 40, characters: DOCUMENTS.join('').length + 40 * 4 }]);
    await cancel(server, job.id);
  });

  const mistakes: [what: string, body: unknown, status: number, param: string | null, message: RegExp][] = [
    ['no JSON', '{"task": ', 400, null, /expected a JSON object/],
    ['no object', [], 400, null, /expected a JSON object as the body but received \[\]/],
    ['no task', { sources: [] }, 400, 'task', /expected the name of the task/],
    ['no text', { task: 'x' }, 400, 'sources', /expected an array of at least one \{"name", "documents"\}/],
    ['no sources', { task: 'x', sources: [] }, 400, 'sources', /at least one/],
    [
      'no documents',
      { task: 'x', sources: [{ name: 'a', documents: [] }] },
      400,
      'sources[0].documents',
      /at least one string/,
    ],
    [
      'a number as text',
      { task: 'x', sources: [{ name: 'a', documents: [1] }] },
      400,
      'sources[0].documents[0]',
      /expected a string .*received 1/,
    ],
    ['a bad name', smallJob('no such name'), 400, 'task', /expected a task name of 1 to 64/],
    ['the base', smallJob('dense'), 400, 'task', /"dense" is reserved/],
    ['an unknown start', smallJob('x', {}, { from: 'nobody' }), 404, 'from', /no task "nobody"/],
    ['no name to start from', smallJob('x', {}, { from: 'no such name' }), 404, 'from', /no task "no such name"/],
    ['the base to start from', smallJob('x', {}, { from: 'dense' }), 404, 'from', /no task "dense"/],
    ['an unknown version', smallJob('x', {}, { from: `general@sha256:${'0'.repeat(64)}` }), 404, null, /version/],
    [
      'half a step',
      smallJob('x', { steps: 0.5 }),
      400,
      'settings.steps',
      /expected an integer from 1 to 1000000000 for settings.steps but received 0.5/,
    ],
    ['a text as a number', smallJob('x', { batch: '8' }), 400, 'settings.batch', /settings.batch but received "8"/],
    ['a method', smallJob('x', { method: 'best' }), 400, 'settings.method', /expected one of ste, gumbel/],
    [
      'a long sequence',
      smallJob('x', { seq: 8192 }),
      400,
      'settings.seq',
      /expected at most \d+ \(the model's context\)/,
    ],
    ['a separator', smallJob('x', { separator: 4096 }), 400, 'settings.separator', /below 4096/],
    ['a schedule', smallJob('x', { scale: [1] }), 400, 'settings.scale', /an array of two positive numbers/],
    [
      'a layer',
      smallJob('x', { keepDense: ['all'] }),
      400,
      'settings.keepDense[0]',
      /a layer or matrix such as last:1/,
    ],
    [
      'a typing error',
      smallJob('x', { stepz: 4 }),
      400,
      'settings.stepz',
      /expected one of method, .* but received "stepz"/,
    ],
    ['a teacher of nothing', smallJob('x', {}, { tuneTeacher: {} }), 400, 'tuneTeacher', /the loss kl or mix/],
    ['a rank', smallJob('x', { loss: 'kl' }, { tuneTeacher: { rank: 0 } }), 400, 'tuneTeacher.rank', /from 1 to 4096/],
    [
      'a path',
      smallJob('x', { loss: 'kl' }, { tuneTeacher: { save: '/tmp/x' } }),
      400,
      'tuneTeacher.save',
      /one of rank, steps, learningRate/,
    ],
    ['a start of nothing', smallJob('x', { prior: 'none' }), 400, 'settings.prior', /random start/],
  ];
  for (const [what, body, status, param, message] of mistakes) {
    it(`refuses ${what}`, async () => {
      const error = await refusal(await server.post('/v1/train', body));
      assert.match(error.message, message);
      assert.equal(error.status, status, error.message);
      if (param !== null) assert.equal(error.param, param);
    });
  }

  it('has no job of a name that is none, and no other methods', async () => {
    for (const path of ['/v1/train/nope', '/v1/train/%2e%2e%2fx', '/v1/train/nope/events']) {
      const { status, code } = await refusal(await server.get(path));
      assert.deepEqual([status, code], [404, 'job_not_found'], path);
    }
    assert.equal((await server.get('/v1/train', { method: 'PUT' })).status, 405);
    assert.equal((await server.get('/v1/train/nope', { method: 'PUT' })).status, 405);
  });
});
