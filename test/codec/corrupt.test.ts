import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';
import { checkContainer, decodeMaskSet } from '../../codec/decode.js';
import { CODEC_ERRORS, CodecError } from '../../codec/errors.js';
import { corruptFiles, VALID } from './corrupt-files.js';
import { CORRUPT_FOLDER } from './fixture-files.js';
import { BASE } from './random-sets.js';

/** Errors that only a set in memory can have. */
const WRITER_ERRORS = ['bad-symbol', 'bad-digest'];

const codes = readdirSync(CORRUPT_FOLDER).sort();

describe('a corrupt container', () => {
  it('exists for every way in which a file can be wrong', () => {
    const expected = Object.keys(CODEC_ERRORS).filter((code) => !WRITER_ERRORS.includes(code));
    assert.deepEqual(codes, expected.sort());
  });

  it('is made of a valid one', () => {
    assert.equal(checkContainer(VALID, { expectBase: BASE }).parameters, 64 * 288 + 16 * 24);
  });

  it('is on disk as it is made', () => {
    for (const [code, defect, bytes] of corruptFiles()) {
      assert.deepEqual(new Uint8Array(readFileSync(path.join(CORRUPT_FOLDER, code, `${defect}.mask`))), bytes, defect);
    }
  });

  for (const code of codes) {
    for (const file of readdirSync(path.join(CORRUPT_FOLDER, code)).sort()) {
      it(`${path.parse(file).name} is ${code}, said in one line`, () => {
        const bytes = readFileSync(path.join(CORRUPT_FOLDER, code, file));
        for (const read of [checkContainer, decodeMaskSet]) {
          const before = process.memoryUsage().arrayBuffers;
          assert.throws(
            () => read(bytes, { expectBase: BASE }),
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
      });
    }
  }
});
