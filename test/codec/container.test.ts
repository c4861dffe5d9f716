import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, it } from 'node:test';
import { contentDigest } from '../../codec/content-digest.js';
import { checkContainer, ContainerReader, decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { fileSource } from '../../codec/file-source.js';
import { symbolsToNibbles } from '../../codec/pattern.js';
import { AT, seal, setU32, takeApart } from './container-parts.js';
import { BASE, OTHER_BASE, randomSet } from './random-sets.js';

const PARENT = 'a0'.repeat(32);
const SHAPES = {
  'layers.0.q_proj.weight': [96, 264],
  'layers.0.up_proj.weight': [7, 8],
  'odd.weight': [3, 24],
} as const;

describe('a container', () => {
  for (const [n, m] of [
    [1, 4],
    [2, 4],
    [4, 8],
  ] as const) {
    it(`gives back the ${n}:${m} set that it was made of, with and without a parent`, () => {
      for (const parent of [undefined, PARENT]) {
        const set = randomSet(1, [n, m], SHAPES, parent);
        assert.deepEqual(decodeMaskSet(encodeMaskSet(set)), set);
        for (const coder of ['uniform', 'uniform-ac'] as const) {
          assert.deepEqual(decodeMaskSet(encodeMaskSet(set, { chunkLog2: 12, coder })), set);
        }
      }
    });
  }

  it('is the same for the same set', () => {
    const bytes = encodeMaskSet(randomSet(2, [2, 4], SHAPES));
    assert.deepEqual(encodeMaskSet(randomSet(2, [2, 4], SHAPES)), bytes);
    assert.notDeepEqual(encodeMaskSet(randomSet(3, [2, 4], SHAPES)), bytes);
  });

  it('gives single tensors as symbols and as canonical nibbles, chunk by chunk', () => {
    const set = randomSet(4, [2, 4], SHAPES);
    const reader = new ContainerReader(encodeMaskSet(set, { chunkLog2: 12 }));
    for (const [i, mask] of set.masks.entries()) {
      assert.equal(reader.indexOf(mask.name), i);
      assert.deepEqual(reader.symbols(i), mask.symbols);
      assert.deepEqual(reader.nibbles(i), symbolsToNibbles(mask.symbols));
    }
    assert.equal(reader.indexOf('absent'), undefined);
    assert.throws(() => reader.symbols(3), RangeError);
  });

  it('refuses nibbles of a set that is not 2:4', () => {
    const reader = new ContainerReader(encodeMaskSet(randomSet(5, [4, 8], SHAPES)));
    assert.throws(() => reader.nibbles(0), {
      code: 'unsupported-pattern',
      message: 'expected a 2:4 mask set, got 4:8',
    });
  });

  it('is described by its header without decoding', () => {
    const set = randomSet(6, [2, 4], SHAPES, PARENT);
    const bytes = encodeMaskSet(set, { chunkLog2: 12, coder: 'uniform-ac' });
    const damagedPayload = bytes.slice();
    damagedPayload[bytes.length - 1]! ^= 1;
    const { summary } = new ContainerReader(damagedPayload);
    const { tensors, bitsPerParameter, ...rest } = summary;
    assert.deepEqual(rest, {
      version: 2,
      n: 2,
      m: 4,
      base: BASE,
      parent: PARENT,
      content: contentDigest(set),
      needs: { parent: undefined, weights: false },
      parameters: 96 * 264 + 7 * 8 + 3 * 24,
      fileBytes: bytes.length,
      payloadBytes: tensors.reduce((sum, tensor) => sum + tensor.payloadBytes, 0),
      chunkSymbols: 4096,
    });
    assert.equal(bitsPerParameter, (8 * bytes.length) / summary.parameters);
    assert.deepEqual(
      tensors.map(({ name, rows, cols, groups, coder, chunks }) => [name, rows, cols, groups, coder, chunks]),
      [
        ['layers.0.q_proj.weight', 96, 264, 6336, 'uniform-ac', 2],
        ['layers.0.up_proj.weight', 7, 8, 14, 'uniform-ac', 1],
        ['odd.weight', 3, 24, 18, 'uniform-ac', 1],
      ],
    );
  });

  it('for another base is refused before anything else of it is read', () => {
    const bytes = encodeMaskSet(randomSet(7, [2, 4], SHAPES));
    const headerOnly = {
      byteLength: bytes.length,
      read: (at: number, length: number) => headerRange(bytes, at, length),
    };
    assert.throws(() => checkContainer(headerOnly, { expectBase: OTHER_BASE }), {
      code: 'wrong-base',
      message: new RegExp(`base weights ${OTHER_BASE}, got one for ${BASE}`),
    });
    assert.equal(checkContainer(bytes, { expectBase: BASE }).base, BASE);
  });

  it('is checked with one chunk in memory at a time', () => {
    const set = randomSet(9, [2, 4], { w: [512, 1024] });
    const bytes = encodeMaskSet(set, { chunkLog2: 12 });
    let largest = 0;
    const read = (at: number, length: number): Uint8Array => {
      largest = Math.max(largest, length);
      return bytes.subarray(at, at + length);
    };
    checkContainer({ byteLength: bytes.length, read });
    assert.ok(largest <= 4096 * 0.33 + 128, `read ${largest} bytes at once`);
  });

  it('of absurd but permitted lengths costs no more than its tables', () => {
    const parts = takeApart(encodeMaskSet(randomSet(10, [2, 4], SHAPES)));
    const lengths = [8_388_608, 262_144, 9 * 2 ** 20];
    lengths.forEach((length, i) => setU32(parts.header, AT.tableBytes + 4 * i, length));
    setU32(parts.header, AT.chunkCount, 1_048_576);
    setU32(parts.header, AT.payloadBytes, 0);
    setU32(parts.header, AT.payloadBytes + 4, 256); // 2^40 bytes of payload
    seal(parts);
    const tables = lengths.reduce((sum, length) => sum + length, 0);
    let readBytes = 0;
    const read = (at: number, length: number): Uint8Array => {
      readBytes += length;
      return at === 0 ? parts.header : new Uint8Array(length);
    };
    assert.throws(() => checkContainer({ byteLength: 160 + tables + 2 ** 40, read }), { code: 'table-checksum' });
    assert.equal(readBytes, 160 + tables);
  });

  it('is read from a file as from memory', () => {
    const set = randomSet(8, [2, 4], SHAPES);
    const directory = mkdtempSync(path.join(tmpdir(), 'codec-'));
    const file = path.join(directory, 'set.mask');
    writeFileSync(file, encodeMaskSet(set, { chunkLog2: 12 }));
    const fd = openSync(file, 'r');
    try {
      assert.deepEqual(decodeMaskSet(fileSource(fd)), set);
      assert.equal(checkContainer(fileSource(fd)).content, contentDigest(set));
      const source = fileSource(fd);
      const reader = new ContainerReader(source);
      writeFileSync(file, 'short');
      assert.throws(() => reader.check(), { code: 'truncated' });
    } finally {
      closeSync(fd);
      rmSync(directory, { recursive: true });
    }
  });
});

function headerRange(bytes: Uint8Array, at: number, length: number): Uint8Array {
  assert.ok(at + length <= 160, 'only the fixed header may be read');
  return bytes.subarray(at, at + length);
}
