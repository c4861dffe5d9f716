import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readModelConfig } from '../../../server/engine/model-config.js';
import { loadTokenizer, type ModelTokenizer } from '../../../server/engine/tokenizer.js';
import { TINY } from '../../tiny.js';

const config = readModelConfig(TINY);
const tokenizer = loadTokenizer(TINY, config) as ModelTokenizer;
const scratch = mkdtempSync(join(tmpdir(), 'maskserve-tokenizer-'));
after(() => rmSync(scratch, { recursive: true }));

test('ids are those of Hugging Face tokenizers on the reference prompt', () => {
  assert.deepEqual(tokenizer.encode('function add(a, b) {', true), [0, 1473, 978, 3520, 14, 302, 11, 326]);
});

test('text comes back from its ids byte for byte', () => {
  for (const text of ['déjà vu — 東京 🙂\r\n\t', '  two  spaces ', 'a , b .', "don't"]) {
    assert.equal(tokenizer.decode(tokenizer.encode(text, false)), text);
  }
});

test('special tokens in the text are parsed, and skipped in decoded text', () => {
  const ids = tokenizer.encode('a<|end_of_text|>b', false);
  assert.ok(ids.includes(1));
  assert.equal(tokenizer.decode(ids), 'ab');
});

test('every token of the vocabulary has a label of its own', () => {
  const labels = Array.from({ length: config.vocab }, (_, id) => tokenizer.label(id));
  assert.equal(new Set(labels).size, labels.length);
});

test('a token that is half a character is labelled by its bytes', () => {
  const [first] = tokenizer.encode('☃', false) as [number];
  assert.match(tokenizer.label(first), /^bytes:(\\x[0-9a-f]{2})+$/);
});

test('SentencePiece tokens give spaces and bytes', () => {
  writeFileSync(
    join(scratch, 'tokenizer.json'),
    JSON.stringify({
      version: '1.0',
      added_tokens: [
        { id: 0, content: '<s>', special: true, single_word: false, lstrip: false, rstrip: false, normalized: false },
      ],
      normalizer: {
        type: 'Sequence',
        normalizers: [
          { type: 'Prepend', prepend: '▁' },
          { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
        ],
      },
      pre_tokenizer: null,
      post_processor: null,
      decoder: {
        type: 'Sequence',
        decoders: [
          { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
          { type: 'ByteFallback' },
          { type: 'Fuse' },
          { type: 'Strip', content: ' ', start: 1, stop: 0 },
        ],
      },
      model: {
        type: 'BPE',
        unk_token: null,
        fuse_unk: false,
        byte_fallback: true,
        vocab: { '<s>': 0, '▁': 1, h: 2, i: 3, '▁h': 4, '▁hi': 5, '<0xE2>': 6, '<0x82>': 7, '<0xAC>': 8 },
        merges: ['▁ h', '▁h i'],
      },
    }),
  );
  const pieces = loadTokenizer(scratch, { ...config, vocab: 9 }) as ModelTokenizer;
  assert.deepEqual(pieces.encode('hi hi€', false), [5, 5, 6, 7, 8]);
  assert.equal(pieces.decode([0, 5, 5, 6, 7, 8]), 'hi hi€');
  assert.equal(pieces.label(6), 'bytes:\\xe2');
  assert.equal(pieces.label(0), '<s>');
});

test('a broken tokenizer.json is named', () => {
  const file = join(scratch, 'tokenizer.json');
  writeFileSync(file, readFileSync(file, 'utf8').slice(0, 40));
  assert.throws(() => loadTokenizer(scratch, config), new RegExp(`expected valid JSON in ${file}`));
});
