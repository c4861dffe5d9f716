import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crc32c } from '../../codec/crc32c.js';
import { readTables, writeTables, type TableList } from '../../codec/frequency-table.js';
import { nibblesToSymbols, symbolsToNibbles } from '../../codec/pattern.js';
import { decodeScales, encodeScales } from '../../codec/scales.js';
import { decodeUniform, encodeUniform, maxBytes } from '../../codec/uniform-ac.js';
import { SectionReader, SectionWriter } from '../../codec/varint.js';
import { CHUNK_CHECKSUM, CHUNK_OK, CHUNK_OVERRUN, native, type CodedTensor } from '../../kernels/index.js';
import { damaged } from './codec-cases.js';
import { onEveryIsa } from './every-isa.js';
import { random, type Random } from './numbers.js';

function symbolsOf(next: Random, count: number): Uint8Array {
  return Uint8Array.from({ length: count }, () => Math.floor(next() * 6));
}

function encodedUniform(symbols: Uint8Array): Uint8Array {
  const out = new Uint8Array(maxBytes(symbols.length, 6));
  return out.slice(0, encodeUniform(symbols, 6, out, 0));
}

onEveryIsa(import.meta.url, () => {
  test('uniform-ac decodes as the TypeScript codec does, chunk for chunk, sound or damaged', () => {
    const next = random(1);
    for (const groups of [1, 2, 3, 33, 500, 1023]) {
      const symbols = symbolsOf(next, groups);
      const parts = Array.from({ length: Math.ceil(groups / 100) }, (_, i) => symbols.slice(100 * i, 100 * i + 100));
      for (let round = 0; round < 60; round++) {
        const chunks = parts.map((part) => (round === 0 ? encodedUniform(part) : damaged(next, encodedUniform(part))));
        const mask = new Uint8Array(Math.ceil(groups / 2));
        const statuses = new Int32Array(chunks.length);
        native.decodeUniformAc({ coder: 1, groups, cols: 4 * groups, mask }, 100, {
          payload: new Uint8Array(Buffer.concat(chunks)),
          lengths: Uint32Array.from(chunks, (chunk) => chunk.length),
          checksums: Uint32Array.from(chunks, (chunk) => crc32c(chunk)),
          statuses,
        });
        chunks.forEach((chunk, i) => {
          const expected = new Uint8Array(parts[i]!.length);
          const whole = decodeUniform(chunk, 6, expected);
          assert.equal(statuses[i], whole ? CHUNK_OK : CHUNK_OVERRUN);
          const part = mask.subarray(50 * i, 50 * i + Math.ceil(expected.length / 2));
          if (whole) assert.deepEqual(nibblesToSymbols(part, expected.length), expected);
        });
      }
    }
  });

  test('scales decode as the TypeScript codec does, sound or damaged', () => {
    const next = random(2);
    const symbols = Uint8Array.from({ length: 700 }, () => Math.min(63, Math.floor(28 + 8 * next() * next())));
    const list: TableList = { name: 'scales', count: 1, symbols: 64 };
    const histogram = new Float64Array(64);
    for (const symbol of symbols) histogram[symbol] = (histogram[symbol] ?? 0) + 1;
    const writer = new SectionWriter();
    writeTables(writer, list, histogram);
    const table = readTables(new SectionReader(writer.toBytes(), 'models', 'model-table'), list);
    const sound = encodeScales([symbols], table);
    for (let round = 0; round < 100; round++) {
      const chunk = round === 0 ? sound : damaged(next, sound);
      const scales = new Int16Array(700);
      const expected = decodeScales(chunk, [700], table);
      assert.equal(native.decodeScales(chunk, crc32c(chunk), table.cum, scales), expected ? CHUNK_OK : CHUNK_OVERRUN);
      if (expected)
        assert.deepEqual(
          [...scales],
          [...expected[0]!].map((symbol) => 16 * (symbol - 32)),
        );
    }
    assert.equal(native.decodeScales(sound, 0, table.cum, new Int16Array(700)), CHUNK_CHECKSUM);
  });

  test('symbols pack to nibbles and back, and what is none is found in every place', () => {
    const next = random(3);
    for (const groups of [1, 2, 31, 32, 33, 65, 1000, 200_001]) {
      const symbols = symbolsOf(next, groups);
      const nibbles = new Uint8Array(Math.ceil(groups / 2));
      assert.equal(native.packSymbols(nibbles, symbols), true);
      assert.deepEqual(nibbles, symbolsToNibbles(symbols));
      const again = new Uint8Array(groups);
      assert.equal(native.unpackSymbols(again, nibbles), true);
      assert.deepEqual(again, symbols);
      const at = Math.floor(next() * groups);
      symbols[at] = 6;
      assert.equal(native.packSymbols(nibbles.slice(), symbols), false);
      const bad = nibbles.slice();
      bad[at >> 1] = at & 1 ? bad[at >> 1]! & 15 : bad[at >> 1]! & 240;
      assert.equal(native.unpackSymbols(again, bad), false, `${groups} groups, ${at}`);
    }
    assert.equal(native.unpackSymbols(new Uint8Array(1), Uint8Array.of(0x44)), false, 'a nibble after the last');
  });

  test('the checksum is CRC-32C', () => {
    assert.equal(native.crc32c(Buffer.from('123456789')), 0xe3069283);
    const bytes = Uint8Array.from({ length: 1000 }, (_, i) => (i * 7919) >> 3);
    for (let length = 0; length < 1000; length += 13) {
      assert.equal(native.crc32c(bytes.subarray(0, length)), crc32c(bytes.subarray(0, length)));
    }
  });

  test('arguments of the wrong kind or size are refused by name', () => {
    const tensor: CodedTensor = { coder: 3, groups: 64, cols: 64, cum: uniform(), mask: new Uint8Array(32) };
    const chunks = {
      payload: new Uint8Array(200),
      lengths: Uint32Array.of(200),
      checksums: new Uint32Array(1),
      statuses: new Int32Array(1),
    };
    const decode = (change: object, others: object = {}): void =>
      native.decodeMasks([{ ...tensor, ...change }], 128, 0, { ...chunks, ...others });
    decode({});
    const refused: readonly (readonly [() => void, RegExp])[] = [
      [() => decode({ coder: 11 }), /^decodeMasks: expected tensors\[0\]\.coder to be an integer from 1 to 10/],
      [() => decode({ coder: 8, parent: tensor.mask, cum: sixTables() }), /expected .*coder to be one of 2 to 7/],
      [() => decode({ groups: 0 }), /tensors\[0\]\.groups/],
      [() => decode({ cols: 24 }), /tensors\[0\]\.cols to divide/],
      [() => decode({ cum: new Uint16Array(6) }), /tensors\[0\]\.cum to be a Uint16Array of at least 7/],
      [() => decode({ cum: new Uint16Array(7) }), /tensors\[0\]\.cum to ascend from 0 to 16384/],
      [() => decode({ mask: new Uint8Array(31) }), /tensors\[0\]\.mask .* 32 elements/],
      [() => decode({ mask: 12345 }), /tensors\[0\]\.mask to name a live buffer/],
      [() => decode({ coder: 5 }), /tensors\[0\]\.weights .*received undefined/],
      [() => decode({ coder: 4 }), /tensors\[0\]\.parent .*received undefined/],
      [() => decode({}, { lengths: Uint32Array.of(201) }), /chunks\.payload/],
      [() => decode({}, { statuses: new Int32Array(0) }), /chunks\.statuses/],
      [() => native.decodeMasks([], 128, 0, chunks), /expected 1 to 16384 tensors/],
      [() => native.decodeMasks([tensor], 128, 2, chunks), /expected chunks of at most those from firstStep/],
      [() => native.countSymbols(tensor, new Uint32Array(7)), /the bytes of counts/],
      [() => native.packSymbols(new Uint8Array(1), new Uint8Array(3)), /expected nibbles of at least 2 bytes/],
    ];
    for (const [call, message] of refused) assert.throws(call, { message });
  });
});

function sixTables(): Uint16Array {
  return Uint16Array.from({ length: 42 }, (_, i) => Math.floor((16384 * (i % 7)) / 6));
}

function uniform(): Uint16Array {
  return Uint16Array.from({ length: 7 }, (_, s) => Math.floor((16384 * s) / 6));
}
