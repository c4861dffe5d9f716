import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';
import { openChain } from '../../codec/chain.js';
import { checkContainer, decodeMaskSet } from '../../codec/decode.js';
import { CODEC_ERRORS, CodecError, type CodecErrorCode } from '../../codec/errors.js';
import { corruptFiles } from './corrupt-files.js';
import { contextFor, validOnes } from './corrupt-origins.js';
import { CORRUPT_1_FOLDER, CORRUPT_FOLDER } from './fixture-files.js';
import { BASE } from './random-sets.js';

/** Errors that only a set in memory can have. */
const WRITER_ERRORS = ['bad-symbol', 'bad-digest'];

/** Version 1 has no such sections. */
const VERSION_2_ERRORS = [
  'bad-varint',
  'model-table',
  'parent-missing',
  'chain-too-deep',
  'parent-mismatch',
  'patch-count',
  'index-length',
  'weights-missing',
  'weights-mismatch',
  'patch-position',
];
const VERSION_1_ERRORS = ['coder-data'];

const FOLDERS = [
  { version: 1, folder: CORRUPT_1_FOLDER, without: [...WRITER_ERRORS, ...VERSION_2_ERRORS] },
  { version: 2, folder: CORRUPT_FOLDER, without: [...WRITER_ERRORS, ...VERSION_1_ERRORS] },
];

describe('a corrupt container', () => {
  it('is made of valid ones', () => {
    const context = contextFor('content-mismatch');
    for (const valid of validOnes()) {
      assert.equal(checkContainer(valid, { expectBase: BASE, context }).parameters, 64 * 288 + 16 * 24);
    }
  });

  it('is on disk as it is made', () => {
    for (const [code, defect, bytes] of corruptFiles()) {
      assert.deepEqual(new Uint8Array(readFileSync(path.join(CORRUPT_FOLDER, code, `${defect}.mask`))), bytes, defect);
    }
  });

  for (const { version, folder, without } of FOLDERS) {
    const codes = readdirSync(folder).sort() as CodecErrorCode[];

    it(`of version ${version} exists for every way in which a file can be wrong`, () => {
      const expected = Object.keys(CODEC_ERRORS).filter((code) => !without.includes(code));
      assert.deepEqual(codes, expected.sort());
    });

    for (const code of codes) {
      for (const file of readdirSync(path.join(folder, code)).sort()) {
        it(`of version ${version}: ${path.parse(file).name} is ${code}, said in one line`, () => {
          const bytes = readFileSync(path.join(folder, code, file));
          for (const read of readers(code)) refuses(read, bytes, code);
        });
      }
    }
  }
});

/** Ways to read all of a file. Its own ancestor makes a chain without end. */
function readers(code: CodecErrorCode): readonly ((bytes: Uint8Array) => unknown)[] {
  const options = { expectBase: BASE };
  if (code === 'chain-too-deep') return [(bytes) => openChain(bytes, { parent: () => bytes }, options)];
  const context = contextFor(code);
  return [checkContainer, decodeMaskSet].map((read) => (bytes) => read(bytes, { ...options, context }));
}

function refuses(read: (bytes: Uint8Array) => unknown, bytes: Uint8Array, code: CodecErrorCode): void {
  const before = process.memoryUsage().arrayBuffers;
  assert.throws(
    () => read(bytes),
    (error) => {
      assert.ok(error instanceof CodecError, String(error));
      assert.equal(error.code, code, error.message);
      assert.match(error.message, /^expected [^\n]+, got [^\n]+$/);
      // The symbols of one chunk are at most 1 MiB; nothing else may be large.
      assert.ok(process.memoryUsage().arrayBuffers - before < 2 * 2 ** 20, 'allocated too much');
      return true;
    },
  );
}
