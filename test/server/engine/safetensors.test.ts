import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { computeBaseDigest } from '../../../server/engine/base-digest.js';
import { locateTensors, readHeader } from '../../../server/engine/safetensors.js';
import { TINY } from '../../tiny.js';

const scratch = mkdtempSync(join(tmpdir(), 'maskserve-safetensors-'));
after(() => rmSync(scratch, { recursive: true }));

type Entry = { dtype: string; shape: number[]; data_offsets: number[] };

function container(header: Record<string, Entry | object> | string, data: Uint8Array, announced?: bigint): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(announced ?? BigInt(json.length));
  return Buffer.concat([length, json, data]);
}

function written(name: string, bytes: Uint8Array): string {
  const file = join(scratch, name);
  writeFileSync(file, bytes);
  return file;
}

test('the embedded model has 56 tensors, all inside the file', () => {
  const tensors = locateTensors(TINY);
  assert.equal(tensors.size, 56);
  assert.deepEqual(tensors.get('model.layers.5.mlp.down_proj.weight')?.shape, [256, 704]);
});

test('a header that announces more than the file holds is refused', () => {
  const file = written('long', container({}, new Uint8Array(0), 1n << 40n));
  assert.throws(() => readHeader(file), /expected a safetensors header within 10 bytes but .* announces 1099511627776/);
});

test('a file shorter than its length field is refused', () => {
  assert.throws(() => readHeader(written('short', Buffer.from('abc'))), /too short for a safetensors file/);
});

test('a header that is not JSON is refused', () => {
  assert.throws(() => readHeader(written('json', container('{"a":', new Uint8Array(0)))), /is not valid JSON/);
});

test('offsets that do not fit the shape or the file are refused', () => {
  const cases: [string, Entry][] = [
    ['outside', { dtype: 'BF16', shape: [4], data_offsets: [0, 8] }],
    ['mismatch', { dtype: 'BF16', shape: [3], data_offsets: [0, 4] }],
    ['negative', { dtype: 'BF16', shape: [1], data_offsets: [-2, 0] }],
    ['fraction', { dtype: 'F32', shape: [0.5], data_offsets: [0, 2] }],
  ];
  for (const [name, entry] of cases) {
    const file = written(name, container({ weight: entry }, new Uint8Array(4)));
    assert.throws(() => readHeader(file), /tensor weight in .* don't fit its \d+ bytes/, name);
  }
});

test('the base digest depends on names and values, not on how tensors are split into files', () => {
  const a = { dtype: 'BF16', shape: [2], data_offsets: [0, 4] };
  const b = { dtype: 'F32', shape: [1], data_offsets: [4, 8] };
  const bytes = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
  const digest = (...files: string[]): string =>
    computeBaseDigest(
      new Map(files.flatMap((file) => readHeader(file).map((tensor) => [tensor.name, tensor] as const))),
    );
  const whole = digest(written('whole', container({ a, b }, bytes)));
  const split = digest(
    written('b', container({ b: { ...b, data_offsets: [0, 4] } }, bytes.subarray(4))),
    written('a', container({ a }, bytes.subarray(0, 4))),
  );
  assert.equal(split, whole);
  assert.notEqual(digest(written('renamed', container({ a, c: b }, bytes))), whole);
  assert.notEqual(digest(written('changed', container({ a, b }, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 9)))), whole);
});
