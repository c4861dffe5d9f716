import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Detokenizer } from '../../../server/engine/detokenizer.js';
import type { ModelTokenizer } from '../../../server/engine/tokenizer.js';

/** A tokenizer whose token n is the n-th of the given byte strings. */
function tokenizerOf(tokens: readonly (string | number[])[]): ModelTokenizer {
  const bytes = tokens.map((token) => (typeof token === 'string' ? Buffer.from(token) : Uint8Array.from(token)));
  return {
    encode: () => [],
    bytes: (id) => bytes[id] ?? new Uint8Array(0),
    label: String,
    decode: () => '',
    chatTemplate: undefined,
    specialTexts: { bos_token: '', eos_token: '' },
  };
}

function run(tokens: readonly (string | number[])[], stops: readonly string[]): { parts: string[]; stopped: boolean } {
  const detokenizer = new Detokenizer(tokenizerOf(tokens), stops);
  const parts: string[] = [];
  for (let id = 0; id < tokens.length && !detokenizer.stopped; id++) parts.push(detokenizer.push(id));
  parts.push(detokenizer.flush());
  return { parts, stopped: detokenizer.stopped };
}

test('text without stop strings passes at once', () => {
  assert.deepEqual(run(['ab', 'c'], []).parts, ['ab', 'c', '']);
});

test('a character whose bytes are spread over tokens is shown when it is whole', () => {
  const [euro0, euro1, euro2] = Buffer.from('€') as unknown as [number, number, number];
  assert.deepEqual(run([[euro0], [euro1, euro2], 'x'], []).parts, ['', '€', 'x', '']);
});

test('bytes that never become a character end as U+FFFD', () => {
  assert.equal(run([[0xe2, 0x82]], []).parts.join(''), '\ufffd');
});

test('a stop string across three tokens is cut before its first character', () => {
  const { parts, stopped } = run(['one E', 'N', 'D two'], ['END']);
  assert.equal(parts.join(''), 'one ');
  assert.equal(stopped, true);
});

test('what may become a stop string is held back, and shown when it does not', () => {
  assert.deepEqual(run(['a E', 'N', 'x'], ['END']).parts, ['a ', '', 'ENx', '']);
});

test('held text is shown at the end of the sequence', () => {
  assert.equal(run(['a EN'], ['END']).parts.join(''), 'a EN');
});

test('the earliest of several stop strings wins', () => {
  assert.equal(run(['x two one'], ['one', 'two']).parts.join(''), 'x ');
});

test('a stop string at the very start gives no text', () => {
  assert.equal(run(['\n', 'more'], ['\n']).parts.join(''), '');
});
