/** ZIP archives: what is written is read back by a second reader, and the 64-bit forms are understood. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { ZipReader } from '../../../../clients/cli/interchange/zip-reader.js';
import { zipArchive, zipDirectory } from '../../../../clients/cli/interchange/zip-writer.js';
import { numpyZip, unzip } from './foreign.js';

const scratch = mkdtempSync(join(tmpdir(), 'maskctl-zip-'));
after(() => rmSync(scratch, { recursive: true }));
const path = join(scratch, 'archive.zip');

function readAll(archive: Uint8Array): Map<string, Buffer> {
  writeFileSync(path, archive);
  const zip = new ZipReader(path);
  try {
    return new Map(zip.entries.map((entry) => [entry.name, zip.read(entry, 1 << 20)]));
  } finally {
    zip.close();
  }
}

const contents = fc.uniqueArray(
  fc.record({ name: fc.stringMatching(/^[a-z.]{1,20}$/), bytes: fc.uint8Array({ maxLength: 3000, size: 'max' }) }),
  { maxLength: 6, selector: ({ name }) => name },
);

test('what is written is read back, here and by following the local headers', () => {
  fc.assert(
    fc.property(contents, (entries) => {
      const archive = Buffer.concat([...zipArchive(entries)]);
      const expected = new Map(entries.map(({ name, bytes }) => [name, Buffer.from(bytes)]));
      assert.deepEqual(readAll(archive), expected);
      assert.deepEqual(unzip(archive), expected);
    }),
    { numRuns: 30, seed: 1 },
  );
});

test('the same entries give the same bytes, whatever the clock says', () => {
  const entries = [{ name: 'a', bytes: Buffer.from('hello') }];
  const archive = Buffer.concat([...zipArchive(entries)]);
  assert.deepEqual(Buffer.concat([...zipArchive(entries)]), archive);
  assert.equal(archive.readUInt32LE(10), 0x00210000); // 1 January 1980, 0:00
});

test('what others write is read, stored and deflated, and entries of any length up to several stored blocks', () => {
  for (const length of [0, 1, 65535, 65536, 200_000]) {
    const bytes = Buffer.alloc(length, 'mask');
    for (const method of [0, 8]) {
      assert.deepEqual(readAll(numpyZip([{ name: 'x', bytes, method }])), new Map([['x', bytes]]));
    }
  }
});

test('an archive may end with a comment', () => {
  const archive = Buffer.from(numpyZip([{ name: 'x', bytes: Buffer.from('y') }]));
  const comment = 'PK\x05\x06 is where archives end';
  archive.writeUInt16LE(comment.length, archive.length - 2);
  assert.deepEqual(readAll(Buffer.concat([archive, Buffer.from(comment)])), new Map([['x', Buffer.from('y')]]));
});

test('offsets above 4 GiB and more entries than 16 bits count are written in the 64-bit form', () => {
  const far = 5 * 2 ** 32 + 7;
  const shared = Buffer.alloc(22, 0xab);
  const one = zipDirectory([{ name: 'x', offset: far, shared }], far + 100);
  assert.equal(one.readUInt32LE(42), 0xffffffff);
  assert.deepEqual([one.readUInt16LE(47), one.readUInt16LE(49), one.readBigUInt64LE(51)], [1, 8, BigInt(far)]);
  const end64 = one.subarray(59);
  assert.equal(end64.readUInt32LE(0), 0x06064b50);
  assert.deepEqual(
    [24, 32, 40, 48].map((at) => end64.readBigUInt64LE(at)),
    [1n, 1n, 59n, BigInt(far + 100)],
  );
  const locator = end64.subarray(56);
  assert.deepEqual([locator.readUInt32LE(0), locator.readBigUInt64LE(8)], [0x07064b50, BigInt(far + 159)]);
  assert.deepEqual([locator.readUInt32LE(20), locator.readUInt32LE(36)], [0x06054b50, 0xffffffff]);
  const many = zipDirectory(
    Array.from({ length: 70_000 }, () => ({ name: 'x', offset: 0, shared })),
    0,
  );
  assert.equal(many.readUInt16LE(many.length - 12), 0xffff);
  assert.equal(many.readBigUInt64LE(many.length - 98 + 32), 70_000n);
});

test('lengths and offsets of the directory are read from its 64-bit fields where they say so', () => {
  const bytes = Buffer.from('a mask');
  const archive = numpyZip([{ name: 'x', bytes }]);
  const directory = archive.indexOf('PK\x01\x02');
  const wide = Buffer.from(archive.subarray(directory, archive.length - 22));
  const field = Buffer.alloc(28);
  field.writeUInt16LE(1);
  field.writeUInt16LE(24, 2);
  field.writeBigUInt64LE(BigInt(bytes.length), 4);
  field.writeBigUInt64LE(BigInt(wide.readUInt32LE(20)), 12);
  for (const at of [20, 24, 42]) wide.writeUInt32LE(0xffffffff, at);
  wide.writeUInt16LE(field.length, 30);
  const end64 = Buffer.alloc(56);
  end64.write('PK\x06\x06');
  for (const [at, value] of [
    [4, 44],
    [24, 1],
    [32, 1],
    [40, wide.length + field.length],
    [48, directory],
  ] as const) {
    end64.writeBigUInt64LE(BigInt(value), at);
  }
  const locator = Buffer.alloc(20);
  locator.write('PK\x06\x07');
  locator.writeBigUInt64LE(BigInt(directory + wide.length + field.length), 8);
  const end = Buffer.alloc(22, 255);
  end.write('PK\x05\x06');
  end.writeUInt16LE(0, 20);
  const rewritten = Buffer.concat([archive.subarray(0, directory), wide, field, end64, locator, end]);
  assert.deepEqual(readAll(rewritten), new Map([['x', bytes]]));
  assert.throws(() => readAll(Buffer.concat([archive.subarray(0, directory), wide, field, end])), /ZIP64 locator/);
});
