/** What a run reads: documents split for good, batches that depend on seed and step alone, windows spread over what is held out. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { readRunText, type TextSettings } from '../../../server/trainer/run-text.js';
import { drawBatch, splitStream } from '../../../server/trainer/streams.js';
import { TINY } from '../../tiny.js';
import { DOCUMENTS } from './runs.js';

let model: Model;
before(() => {
  model = loadModel(TINY, { threads: 1 });
});
after(() => model.dispose());

const SETTINGS: TextSettings = { steps: 1000, batch: 2, seq: 32, seed: 0, evaluateWindows: 4, bos: true };
const source = (documents: readonly string[]): { name: string; documents: readonly string[] } => ({
  name: 'cats',
  documents,
});

test('a twentieth of the documents is held out, and no document is on both sides', () => {
  const text = (ids: Int32Array): string => model.tokenizer?.decode([...ids]) ?? '';
  const { train, heldOut } = splitStream(model, DOCUMENTS, 3, { bos: false });
  const numbers = (ids: Int32Array): Set<string> =>
    new Set([...text(ids).matchAll(/number ?(\d+)/g)].map(([, number]) => number as string));
  const [seen, unseen] = [numbers(train), numbers(heldOut)];
  assert.equal(unseen.size, 2);
  assert.equal(seen.size, 38);
  assert.ok([...unseen].every((number) => !seen.has(number)));
});

test('batches depend on seed and step alone, and targets are the next tokens', () => {
  const streams = [Int32Array.from({ length: 500 }, (_, i) => i), Int32Array.from({ length: 300 }, (_, i) => 1000 + i)];
  const parts = [{ streams, sequences: 64 }];
  const first = drawBatch(parts, 16, 7, 12);
  assert.deepEqual(drawBatch(parts, 16, 7, 12), first);
  assert.notDeepEqual(drawBatch(parts, 16, 7, 13), first);
  assert.notDeepEqual(drawBatch(parts, 16, 8, 12), first);
  assert.ok(first.ids.every((id, i) => first.targets[i] === id + 1));
  const fromFirst = first.ids.filter((id, i) => i % 16 === 0 && id < 1000).length;
  assert.ok(fromFirst > 16 && fromFirst < 48, 'sources are drawn alike, whatever their length');
});

test('held-out windows are spread over the text; a guard’s are its first', () => {
  const request = { sources: [source(DOCUMENTS)], guards: [source(DOCUMENTS)] };
  const text = readRunText(model, request, SETTINGS);
  const [own, guard] = text.heldOut;
  assert.ok(own && guard);
  assert.deepEqual([own.guard, guard.guard], [false, true]);
  assert.equal(own.windows.length, 4);
  assert.ok(own.windows.every((ids) => ids.length === 33));
  const offsets = own.windows.map((ids) => ids.byteOffset / 4);
  const gaps = offsets.slice(1).map((offset, i) => offset - (offsets[i] as number));
  assert.ok(
    gaps.every((gap) => gap > 32),
    'not one after the other',
  );
  assert.deepEqual(
    guard.windows.map((ids) => (ids.byteOffset - (guard.windows[0] as Int32Array).byteOffset) / 4),
    [0, 32, 64, 96],
  );
  assert.equal(text.heldOutTokens, 2 * 4 * 32);
});

test('the digest of the text changes with a word, the seed and the sequence length', () => {
  const digest = (documents: readonly string[], given: Partial<TextSettings> = {}): string =>
    readRunText(model, { sources: [source(documents)], guards: [] }, { ...SETTINGS, ...given }).digest;
  const base = digest(DOCUMENTS);
  assert.equal(digest([...DOCUMENTS]), base);
  const others = [
    digest(DOCUMENTS.map((text, i) => (i === 20 ? text.replace('cat', 'cap') : text))),
    digest(DOCUMENTS, { seed: 1 }),
    digest(DOCUMENTS, { seq: 48 }),
  ];
  assert.equal(new Set([base, ...others]).size, 4);
});
