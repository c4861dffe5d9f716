import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { costInBits, readTables, TOTAL, writeTables, type TableList } from '../../codec/frequency-table.js';
import { RansReader, RansWriter } from '../../codec/rans.js';
import { SectionReader, SectionWriter } from '../../codec/varint.js';
import { randomIntegers } from './random-sets.js';

const list = (symbols: number, count = 1): TableList => ({ name: 'the test', count, symbols });

/** Counts of very different sizes, zeros too. */
const histograms = fc.record({ symbols: fc.constantFrom(4, 6, 64, 70), seed: fc.nat() }).map(({ symbols, seed }) => {
  const random = randomIntegers(seed);
  return Float64Array.from({ length: symbols }, () => (random(3) === 0 ? 0 : random(2 ** random(24))));
});

describe('frequency tables', () => {
  it('come back from their bytes, add up, and give every symbol that occurs an interval', () => {
    fc.assert(
      fc.property(histograms, (histogram) => {
        const writer = new SectionWriter();
        const written = writeTables(writer, list(histogram.length), histogram);
        const reader = new SectionReader(writer.toBytes(), 'test', 'model-table');
        const read = readTables(reader, list(histogram.length));
        reader.end();
        assert.deepEqual(read.cum, written.cum);
        assert.equal(read.cum.at(-1), TOTAL);
        histogram.forEach((count, s) => assert.ok(count === 0 || read.cum[s + 1]! > read.cum[s]!));
      }),
      { seed: 2, numRuns: 300 },
    );
  });

  it('cost at most a thousandth and 2^-14 more than the entropy, where they are worth their bytes', () => {
    fc.assert(
      fc.property(histograms, (histogram) => {
        const all = histogram.reduce((sum, count) => sum + count, 0);
        fc.pre(all > 1e5);
        const entropy = histogram.reduce((sum, count) => sum + (count > 0 ? count * Math.log2(all / count) : 0), 0);
        const tables = writeTables(new SectionWriter(), list(histogram.length), histogram);
        const spread = (histogram.length * all) / TOTAL;
        assert.ok(costInBits(tables, histogram) <= 1.001 * entropy + 2 * spread + 8 * histogram.length);
      }),
      { seed: 3, numRuns: 300 },
    );
  });
});

describe('a rANS chunk', () => {
  it('gives back symbols of all lanes and raw bits, and ends exactly', () => {
    fc.assert(
      fc.property(histograms, fc.constantFrom(1, 32), fc.nat(), (histogram, lanes, seed) => {
        histogram[0]! += 1;
        const tables = writeTables(new SectionWriter(), list(histogram.length), histogram);
        const random = randomIntegers(seed);
        const possible = [...histogram.keys()].filter((s) => tables.cum[s + 1]! > tables.cum[s]!);
        const steps = Array.from({ length: 500 }, () => ({
          lane: random(lanes),
          bits: random(4) === 0 ? random(29) : 0,
          symbol: possible[random(possible.length)]!,
          value: random(2 ** 28),
        }));
        const writer = new RansWriter(lanes);
        for (const { lane, bits, symbol, value } of steps) {
          if (bits > 0) writer.raw(lane, bits, value % 2 ** bits);
          else writer.symbol(lane, tables, 0, symbol);
        }
        const chunk = writer.finish();
        const reader = new RansReader(chunk, lanes);
        for (const { lane, bits, symbol, value } of steps) {
          if (bits > 0) assert.equal(reader.raw(lane, bits), value % 2 ** bits);
          else assert.equal(reader.symbol(lane, tables, 0), symbol);
        }
        assert.ok(reader.ended);
        const early = new RansReader(Uint8Array.of(...chunk, 0, 0), lanes);
        for (const { lane, bits } of steps) {
          if (bits > 0) early.raw(lane, bits);
          else early.symbol(lane, tables, 0);
        }
        assert.ok(!early.ended, 'a word more');
      }),
      { seed: 4, numRuns: 100 },
    );
  });

  it('refuses to code what has no interval', () => {
    const tables = writeTables(new SectionWriter(), list(4), Float64Array.of(1e6, 0, 0, 0));
    assert.throws(() => new RansWriter(1).symbol(0, tables, 0, 2), RangeError);
  });
});
