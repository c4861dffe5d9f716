/** Where tasks are and what it took to get them there, over HTTP: /v1/models, /metrics, and completions that don't depend on it. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { encodeMaskSet } from '../../../codec/encode.js';
import type { MaskSet } from '../../../codec/mask-set.js';
import { randomMask } from '../../bench/random-mask.js';
import { eventually, startRealServer, type RealServer } from './real-server.js';

interface Place {
  readonly tier: string;
  readonly bytes: number;
  readonly cost_bytes: number;
  readonly load: { readonly ms: number; readonly decode_ms: number; readonly compact_ms: number } | null;
}

interface Choice {
  readonly text: string;
  readonly logprobs: { readonly token_logprobs: readonly (number | null)[] };
}

describe('tiers over HTTP', () => {
  let server: RealServer;
  let cost = 0;

  before(async () => {
    // Room for two copies and some patches; for the nibbles of one task.
    const probe = await startRealServer();
    cost = probe.residency.costBytes();
    await probe.close();
    server = await startRealServer({ config: { cacheBytes: 2.5 * cost, warmBytes: Math.ceil(cost / 9) } });
    const general = randomMask(server.model, 1);
    const french = changed(general, 64);
    const german = changed(general, 3);
    await publish('general', encodeMaskSet(general));
    await publish('french', encodeMaskSet(french, { context: { parent: general }, coder: 'patch' }));
    await publish('flat', encodeMaskSet(french));
    await publish('german', encodeMaskSet(german, { context: { parent: general } }));
  });
  after(() => server.close());

  /** One group in `every` keeps another pair. */
  function changed(parent: MaskSet, every: number): MaskSet {
    const masks = parent.masks.map((mask) => ({
      ...mask,
      symbols: mask.symbols.map((symbol, i) => (i % every === 0 ? (symbol + 1) % 6 : symbol)),
    }));
    return { ...parent, masks };
  }

  async function publish(task: string, bytes: Uint8Array): Promise<void> {
    const response = await server.publish(task, bytes);
    assert.equal(response.status, 201, await response.text());
  }

  async function places(): Promise<Record<string, Place>> {
    const { data } = (await (await server.get('/v1/models')).json()) as { data: { task: string; residency: Place }[] };
    return Object.fromEntries(data.map(({ task, residency }) => [task, residency]));
  }

  async function complete(task: string): Promise<Choice> {
    const body = { prompt: 'function add(a, b)', max_tokens: 10, temperature: 0, logprobs: 1, echo: true };
    const response = await server.post('/v1/completions', body, { 'X-Task': task });
    assert.equal(response.status, 200, await response.clone().text());
    return ((await response.json()) as { choices: [Choice] }).choices[0];
  }

  async function metric(line: string): Promise<number> {
    const text = await (await server.get('/metrics')).text();
    const found = text.split('\n').find((each) => each.startsWith(`maskserve_${line} `));
    return found === undefined ? 0 : Number(found.split(' ')[1]);
  }

  it('a cold child is patched beside its parent, in a fraction of a copy', async () => {
    const before = (await places())['french'];
    assert.deepEqual([before?.tier, before?.load], ['cold', null]);
    await complete('french');
    const { french, general } = await places();
    assert.deepEqual([general?.tier, general?.bytes], ['resident', cost]);
    assert.equal(french?.tier, 'patched');
    assert.ok(french.bytes > 0 && french.bytes < cost / 20, `${french.bytes} of ${cost}`);
    assert.equal(french.cost_bytes, cost);
    assert.ok(french.load && french.load.decode_ms > 0 && french.load.compact_ms > 0);
    assert.ok(french.load.ms >= french.load.decode_ms + french.load.compact_ms);
    assert.equal(server.residency.stats().residentBytes, cost + french.bytes);
  });

  it('completes through patches as through a copy, to rounding', async () => {
    const [patched, copy] = [await complete('french'), await complete('flat')];
    assert.equal((await places())['flat']?.tier, 'resident');
    assert.equal(patched.text, copy.text);
    patched.logprobs.token_logprobs.forEach((logprob, i) => {
      const other = copy.logprobs.token_logprobs[i] ?? 0;
      assert.ok(Math.abs((logprob ?? 0) - other) < 0.02, `token ${i}: ${logprob} and ${other}`);
    });
  });

  it('counts what was found where, and times what was made of it', async () => {
    assert.ok((await metric('residency_found_total{tier="patched"}')) >= 1);
    assert.ok((await metric('residency_found_total{tier="cold"}')) >= 2);
    assert.equal(await metric('residency_loads_total{from="cold",to="patched"}'), 1);
    assert.equal(await metric('residency_loads_total{from="cold",to="resident"}'), 2);
    assert.equal(await metric('task_decode_seconds_count{from="cold",to="patched"}'), 1);
    assert.equal(await metric('task_compact_seconds_count{from="cold",to="resident"}'), 2);
    assert.equal(await metric('task_tier{task="french",tier="patched"}'), 1);
  });

  it('gives a child that changed a third of its groups a copy of its own, keeps the evicted one warm, and brings it back', async () => {
    const before = await complete('flat');
    await complete('general');
    await complete('german');
    await eventually('flat is warm', async () => (await places())['flat']?.tier === 'warm');
    const { german, flat } = await places();
    assert.deepEqual([german?.tier, german?.bytes], ['resident', cost]);
    assert.equal(flat?.bytes, cost / 9);
    assert.equal(await metric('residency_warm_bytes'), cost / 9);
    assert.deepEqual(await complete('flat'), before);
    assert.equal(await metric('residency_loads_total{from="warm",to="resident"}'), 1);
    assert.equal(await metric('residency_found_total{tier="warm"}'), 1);
  });
});
