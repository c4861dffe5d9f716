import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readHeader } from '../../../server/engine/safetensors.js';
import { writeSafetensors, type TensorToWrite } from '../../../server/engine/safetensors-writer.js';

const folder = mkdtempSync(join(tmpdir(), 'maskserve-safetensors-'));
after(() => rmSync(folder, { recursive: true }));

function tensor(name: string, type: TensorToWrite['type'], shape: number[], bytes: Uint8Array): TensorToWrite {
  return { name, type, shape, read: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)) };
}

const bytesOf = (count: number, seed: number): Uint8Array =>
  Uint8Array.from({ length: count }, (_, i) => (i * 7 + seed) & 255);

test('what was written is read back, each tensor aligned to its elements', () => {
  const path = join(folder, 'model.safetensors');
  const contents = { odd: bytesOf(3, 1), half: bytesOf(6, 2), full: bytesOf(8, 3) };
  writeSafetensors(
    path,
    [
      tensor('odd', 'U8', [3], contents.odd),
      tensor('half', 'BF16', [3, 1], contents.half),
      tensor('full', 'F32', [2], contents.full),
    ],
    { format: 'pt' },
  );
  const file = readFileSync(path);
  const tensors = readHeader(path);
  assert.deepEqual(
    tensors.map(({ name, type, shape }) => [name, type, shape]),
    [
      ['full', 'f32', [2]],
      ['half', 'bf16', [3, 1]],
    ],
  );
  for (const { name, offset, bytes } of tensors) {
    assert.ok(file.subarray(offset, offset + bytes).equals(contents[name as keyof typeof contents]), name);
    assert.equal(offset % (name === 'full' ? 4 : 2), 0);
  }
  assert.ok(file.subarray(-3).equals(contents.odd), 'bytes come last');
  const length = Number(file.readBigUInt64LE());
  const header = JSON.parse(file.subarray(8, 8 + length).toString()) as { __metadata__: unknown };
  assert.deepEqual(header.__metadata__, { format: 'pt' });
  assert.equal(length % 8, 0);
});

test('a tensor that fails to be read leaves the old file, and nothing beside it', () => {
  const path = join(folder, 'kept.safetensors');
  writeFileSync(path, 'old');
  const broken: TensorToWrite = {
    name: 'broken',
    type: 'U8',
    shape: [4],
    read: () => {
      throw new Error('no such weight');
    },
  };
  assert.throws(() => writeSafetensors(path, [tensor('fine', 'F32', [1], bytesOf(4, 0)), broken]), /no such weight/);
  assert.equal(readFileSync(path, 'utf8'), 'old');
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.includes('.part')),
    [],
  );
  assert.equal(existsSync(path), true);
});

test('tensors larger than the write buffer arrive whole', () => {
  const path = join(folder, 'large.safetensors');
  const bytes = bytesOf((8 << 20) + 12, 5);
  writeSafetensors(path, [tensor('large', 'F32', [bytes.length / 4], bytes)]);
  const [written] = readHeader(path);
  assert.ok(readFileSync(path).subarray(written?.offset).equals(bytes));
});
