/** Masks that are coded against their parent, over HTTP: as a client and maskctl meet them. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, afterEach, before, describe, it } from 'node:test';
import { decodeMaskSet } from '../../../codec/decode.js';
import { encodeMaskSet } from '../../../codec/encode.js';
import type { MaskSet } from '../../../codec/mask-set.js';
import { frozenWeights } from '../../../server/store/frozen-weights.js';
import { randomMask } from '../../bench/random-mask.js';
import { refusal, startRealServer, type RealServer } from './real-server.js';

interface MaskAnswer {
  readonly content: string;
  readonly needs: { readonly parent: boolean; readonly weights: boolean };
  readonly parent: string | null;
}

describe('deltas over HTTP', () => {
  let server: RealServer;
  let general: Uint8Array;
  let set: MaskSet;
  let french: Uint8Array;

  before(async () => {
    server = await startRealServer();
    const parent = randomMask(server.model, 1);
    general = encodeMaskSet(parent);
    set = changed(parent);
    const weights = frozenWeights(server.model.maskable);
    french = encodeMaskSet(set, { context: { parent, weights }, coder: 'patch+weights' });
  });
  after(() => server.close());
  afterEach(async () => {
    for (const task of ['french', 'flat', 'general']) await server.get(`/v1/masks/${task}`, { method: 'DELETE' });
  });

  /** One group in 64 keeps another pair. */
  function changed(parent: MaskSet): MaskSet {
    const masks = parent.masks.map((mask) => ({
      ...mask,
      symbols: mask.symbols.map((symbol, i) => (i % 64 === 0 ? (symbol + 1) % 6 : symbol)),
    }));
    return { ...parent, masks };
  }

  async function publishBoth(): Promise<MaskAnswer> {
    assert.equal((await server.publish('general', general)).status, 201);
    const published = await server.publish('french', french);
    assert.equal(published.status, 201, await published.clone().text());
    return (await published.json()) as MaskAnswer;
  }

  it('answers 409 parent_unknown to a delta without its parent, and says which', async () => {
    const { content } = (await (await server.publish('general', general)).json()) as MaskAnswer;
    await server.get('/v1/masks/general', { method: 'DELETE' });
    const { status, code, message } = await refusal(await server.publish('french', french));
    assert.deepEqual([status, code], [409, 'parent_unknown']);
    assert.match(message, new RegExp(content));
    assert.match(message, /publish the parent first/);
  });

  it('takes one beside its parent and the weights, and says what it needs', async () => {
    const { needs, parent } = await publishBoth();
    assert.deepEqual(needs, { parent: true, weights: true });
    const record = (await (
      await server.get('/v1/masks/general', { headers: { Accept: 'application/json' } })
    ).json()) as MaskAnswer;
    assert.equal(parent, record.content);
    assert.deepEqual(record.needs, { parent: false, weights: false });
  });

  it('answers 409 parent_needed to whoever deletes the parent', async () => {
    await publishBoth();
    const { status, code, message } = await refusal(await server.get('/v1/masks/general', { method: 'DELETE' }));
    assert.deepEqual([status, code], [409, 'parent_needed']);
    assert.match(message, /"french"/);
  });

  it('gives the delta as it was stored, or flattened', async () => {
    const { content } = await publishBoth();
    const stored = await server.get('/v1/masks/french');
    assert.deepEqual(new Uint8Array(await stored.arrayBuffer()), french);
    const flattened = await server.get('/v1/masks/french?flatten=1');
    const bytes = new Uint8Array(await flattened.arrayBuffer());
    const sha256 = createHash('sha256').update(bytes).digest();
    assert.equal(flattened.headers.get('etag'), `"${sha256.toString('hex')}"`);
    assert.equal(flattened.headers.get('repr-digest'), `sha-256=:${sha256.toString('base64')}:`);
    assert.equal(flattened.headers.get('x-mask-digest'), stored.headers.get('x-mask-digest'));
    assert.deepEqual(decodeMaskSet(bytes).masks, set.masks);
    const again = (await (await server.publish('flat', bytes)).json()) as MaskAnswer;
    assert.deepEqual([again.content, again.needs.parent], [content, false]);
    const etag = flattened.headers.get('etag') as string;
    const unchanged = await server.get('/v1/masks/french?flatten=1', { headers: { 'If-None-Match': etag } });
    assert.equal(unchanged.status, 304);
  });

  it('gives what needs nothing as it is, flattened or not, and refuses another flatten', async () => {
    await publishBoth();
    const response = await server.get('/v1/masks/general?flatten=true', { headers: { Range: 'bytes=0-9' } });
    assert.equal(response.status, 206);
    assert.deepEqual(new Uint8Array(await response.arrayBuffer()), general.slice(0, 10));
    const asked = await refusal(await server.get('/v1/masks/general?flatten=maybe'));
    assert.deepEqual([asked.status, asked.code, asked.param], [400, 'invalid_request', 'flatten']);
  });

  it('completes through a delta that changes nothing as through its parent', async () => {
    const parent = randomMask(server.model, 1);
    await server.publish('general', general);
    assert.equal((await server.publish('french', encodeMaskSet(parent, { context: { parent } }))).status, 201);
    const completed = async (task: string): Promise<unknown> => {
      const body = { prompt: 'The', max_tokens: 8, temperature: 0 };
      const response = await server.post('/v1/completions', body, { 'X-Task': task });
      assert.equal(response.status, 200, await response.clone().text());
      return ((await response.json()) as { choices: { text: string }[] }).choices[0]?.text;
    };
    assert.equal(await completed('french'), await completed('general'));
  });

  it('completes through a delta whose parent it has to decode first as through the flattened mask, to the bit', async () => {
    await publishBoth();
    await server.publish('flat', encodeMaskSet(set));
    // Half of the groups changed: too many for patches, so both get copies of their own.
    const far: MaskSet = {
      ...set,
      masks: set.masks.map((mask) => ({ ...mask, symbols: mask.symbols.map((symbol, i) => (symbol + (i & 1)) % 6) })),
    };
    const child = encodeMaskSet(far, { context: { parent: set, weights: frozenWeights(server.model.maskable) } });
    assert.equal((await server.publish('flat', encodeMaskSet(far))).status, 200);
    assert.equal((await server.publish('general', child)).status, 200, 'coded against french');
    const answer = async (task: string): Promise<unknown> => {
      const body = { prompt: 'function add(a, b)', max_tokens: 12, temperature: 0, logprobs: 2, echo: true };
      const response = await server.post('/v1/completions', body, { 'X-Task': task });
      assert.equal(response.status, 200, await response.clone().text());
      return ((await response.json()) as { choices: unknown }).choices;
    };
    assert.deepEqual(await answer('general'), await answer('flat'));
  });
});
