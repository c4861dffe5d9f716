import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { canonicalBytes, nibblesToSymbols, NO_SYMBOL, patternTable, symbolsToNibbles } from '../../codec/pattern.js';
import { randomSymbols } from './random-sets.js';

describe('patterns', () => {
  it('of 1:4 and 2:4 are numbered as FORMAT.md lists them', () => {
    assert.deepEqual(drawn(1, 4), ['1000', '0100', '0010', '0001']);
    assert.deepEqual(drawn(2, 4), ['1100', '1010', '1001', '0110', '0101', '0011']);
  });

  it('of 4:8 are 70, in descending order as drawings', () => {
    const drawings = drawn(4, 8);
    assert.equal(drawings.length, 70);
    assert.deepEqual(drawings, [...new Set(drawings)].sort().reverse());
    assert.deepEqual(drawings.slice(0, 6), ['11110000', '11101000', '11100100', '11100010', '11100001', '11011000']);
    assert.deepEqual([drawings[35], drawings[69]], ['01111000', '00001111']);
  });

  it('are found by their positions as a bit mask, and only those', () => {
    for (const [n, m] of [
      [1, 4],
      [2, 4],
      [4, 8],
    ] as const) {
      const table = patternTable(n, m);
      table.positions.forEach((kept, symbol) => {
        assert.equal(kept.length, n);
        const mask = kept.reduce((bits, position) => bits + 2 ** position, 0);
        assert.equal(table.masks[symbol], mask);
        assert.equal(table.symbolOfMask[mask], symbol);
      });
      assert.equal(table.symbolOfMask.filter((symbol) => symbol !== NO_SYMBOL).length, table.count);
    }
  });

  it('of another n:m are refused by name', () => {
    assert.throws(() => patternTable(2, 8), {
      code: 'unsupported-pattern',
      message: 'expected n:m to be one of 1:4, 2:4, 4:8, got 2:8',
    });
  });
});

describe('canonical nibbles', () => {
  it('are idx0 | idx1 << 2, two groups a byte, the earlier low', () => {
    assert.deepEqual(symbolsToNibbles(Uint8Array.of(0, 1, 2, 3, 4, 5)), Uint8Array.of(0x84, 0x9c, 0xed));
    for (const [symbol, [idx0, idx1]] of patternTable(2, 4).positions.entries()) {
      assert.deepEqual(symbolsToNibbles(Uint8Array.of(symbol)), Uint8Array.of(idx0! | (idx1! << 2)));
    }
  });

  it('come back as the symbols they were made of, for even and odd numbers of groups', () => {
    for (const groups of [0, 1, 2, 3, 100, 101, 4096]) {
      const symbols = randomSymbols(groups, groups, 6);
      const nibbles = symbolsToNibbles(symbols);
      assert.equal(nibbles.length, canonicalBytes(patternTable(2, 4), groups));
      assert.deepEqual(nibblesToSymbols(nibbles, groups), symbols);
    }
  });

  it('are refused when they name no pattern, with the group', () => {
    for (const nibble of [0, 1, 2, 3, 5, 6, 7, 10, 11, 15]) {
      assert.throws(() => nibblesToSymbols(Uint8Array.of(0x84, 0x04 | (nibble << 4))), {
        code: 'bad-symbol',
        message: new RegExp(`got ${nibble} in group 3`),
      });
    }
    assert.throws(() => nibblesToSymbols(Uint8Array.of(0x84), 3), /expected 2 bytes of nibbles for 3 groups, got 1/);
    assert.throws(
      () => nibblesToSymbols(Uint8Array.of(0x84), 1),
      /expected the nibble after the last of 1 groups to be 0/,
    );
  });

  it('are not made of symbols that are no pattern', () => {
    assert.throws(() => symbolsToNibbles(Uint8Array.of(0, 5, 6)), {
      code: 'bad-symbol',
      message: 'expected symbols 0 to 5, got 6 in group 2',
    });
  });
});

/** The patterns of n:m as strings, position 0 first. */
function drawn(n: number, m: number): string[] {
  return patternTable(n, m).positions.map((kept) =>
    Array.from({ length: m }, (_, position) => (kept.includes(position) ? '1' : '0')).join(''),
  );
}
