/** Masks in .npz files: numpy's own, hand-made ones in every form that the note on MaskLLM warns of, and files that are wrong. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { openBase } from '../../../../clients/cli/interchange/base-model.js';
import type { Imported } from '../../../../clients/cli/interchange/imported.js';
import type { Completion } from '../../../../clients/cli/interchange/kept-bits.js';
import { importNpz } from '../../../../clients/cli/interchange/npz-import.js';
import { BIASED, BIASED_LAYERS, type Entry, modelLike, numpyArray, numpyZip, packBits } from './foreign.js';

const NUMPY_MADE = fileURLToPath(
  new URL('../../../../../test/clients/cli/interchange/numpy/mask_compressed.npz', import.meta.url),
);
const PATTERNS = [
  [1, 1, 0, 0],
  [1, 0, 1, 0],
  [1, 0, 0, 1],
  [0, 1, 1, 0],
  [0, 1, 0, 1],
  [0, 0, 1, 1],
];
const [FIRST, ROWS, COLS] = BIASED_LAYERS[0]!;
const GROUPS = (ROWS * COLS) / 4;

const scratch = mkdtempSync(join(tmpdir(), 'maskctl-npz-'));
after(() => rmSync(scratch, { recursive: true }));
const biased = openBase(BIASED);
let files = 0;

function imported(archive: Uint8Array, completion: Completion = 'zeros', base = biased): Imported {
  const path = join(scratch, `${files++}.npz`);
  writeFileSync(path, archive);
  return importNpz(path, base, completion, () => undefined);
}

/** The symbols that numpy/make.py chose for matrix number m. */
const chosen = (groups: number, m: number): number[] =>
  Array.from({ length: groups }, (_, g) => (7 * g + 3 * m + Math.floor(g / 5)) % 6);
const bitsOf = (symbols: readonly number[]): number[] => symbols.flatMap((symbol) => PATTERNS[symbol]!);
/** One matrix's mask, packed. */
const packed = (bits: readonly number[], name = `${FIRST}.mask.npy`): Entry => {
  const data = packBits(bits);
  return { name, bytes: numpyArray("'|u1'", [data.length], data) };
};

describe('an .npz of masks', () => {
  test('that numpy itself wrote gives every pattern of every matrix', () => {
    const { masks, dense, counts } = importNpz(NUMPY_MADE, biased, 'zeros', () => undefined);
    assert.deepEqual(
      masks.map(({ name, rows, cols }) => [name, rows, cols]),
      BIASED_LAYERS,
    );
    masks.forEach(({ symbols }, m) => assert.deepEqual([...symbols], chosen(symbols.length, m)));
    assert.deepEqual(dense, []);
    assert.deepEqual([counts.groups, counts.completedAtZeros, counts.tooFew, counts.tooMany], [4608, 0, 0, 0]);
  });

  test('may name its entries by the parameter alone, store them, or hold booleans of either shape', () => {
    const symbols = chosen(GROUPS, 4);
    const bits = bitsOf(symbols);
    const booleans = Uint8Array.from(bits);
    const forms: Entry[] = [
      packed(bits),
      packed(bits, `${FIRST}.npy`),
      { ...packed(bits), method: 0 },
      { name: `${FIRST}.mask.npy`, bytes: numpyArray("'|b1'", [ROWS, COLS], booleans) },
      { name: `${FIRST}.npy`, bytes: numpyArray("'|b1'", [ROWS * COLS], booleans) },
      { name: `${FIRST}.npy`, bytes: numpyArray("'|b1'", [ROWS * COLS], booleans, true) }, // a vector has no order
    ];
    for (const form of forms) {
      const { masks, dense } = imported(numpyZip([form]));
      assert.deepEqual([...masks[0]!.symbols], symbols);
      assert.deepEqual([masks.length, dense.length], [1, BIASED_LAYERS.length - 1]);
    }
  });

  test('covers the matrices in the order of the model, whatever its own', () => {
    const entries = [...BIASED_LAYERS]
      .reverse()
      .map(([name, rows, cols], m) => packed(bitsOf(chosen((rows * cols) / 4, m)), `${name}.npy`));
    const { masks } = imported(numpyZip(entries));
    assert.deepEqual(
      masks.map(({ name }) => name),
      BIASED_LAYERS.map(([name]) => name),
    );
  });
});

describe('a group that keeps fewer than two weights, because a kept one was 0', () => {
  // Groups 0 to 3 of the first row: zeros of the base at positions 2; 0 and 3; none; all.
  const base = openBase(
    modelLike(BIASED, join(scratch, 'zeros'), (name, weights) => {
      if (name !== FIRST) return;
      weights.set([0x3f80, 0x4000, 0x0000, 0xc080], 0);
      weights.set([0x8000, 0x4000, 0x3f80, 0x0000], 4);
      weights.set([0x3f80, 0xc000, 0x4080, 0x4000], 8); // 1, −2, 4, 2
      weights.set([0, 0, 0x8000, 0], 12);
    }),
  );
  const rest = chosen(GROUPS, 1).slice(4);
  const archive = (...first: number[]): Buffer => numpyZip([packed([...first, ...bitsOf(rest)])]);
  const first = ({ masks }: Imported): number[] => [...masks[0]!.symbols.subarray(0, 4)];

  test('is completed at zeros of the base, a negative zero among them, and counted', () => {
    const result = imported(archive(0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1), 'zeros', base);
    assert.deepEqual(first(result), [3, 2, 4, 2]); // 0110, 1001, 0101, 1001
    assert.deepEqual([...result.masks[0]!.symbols.subarray(4)], rest);
    assert.deepEqual([result.counts.completedAtZeros, result.counts.completedByMagnitude], [3, 0]);
  });

  test('is refused with the count where the base has no zeros', () => {
    assert.throws(
      () => imported(archive(0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), 'zeros', base),
      new RegExp(
        `^Error: .*\\.npz: 1 of ${GROUPS} groups keep fewer than 2 weights .*, the first in ${FIRST}, row 0, columns 8 to 11; --complete magnitude `,
      ),
    );
    assert.throws(
      () => imported(archive(1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0), 'zeros', biased),
      / 4 of 256 groups /,
    );
  });

  test('gets the largest weights where --complete magnitude says so, zeros of the base first', () => {
    const none = imported(archive(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 'magnitude', base);
    assert.deepEqual(first(none), [5, 2, 3, 0]); // 0 at 2 and the largest at 3; 0s at 0 and 3; 4 and, of two equals, the first; any
    assert.deepEqual([none.counts.completedAtZeros, none.counts.completedByMagnitude], [2, 2]);
    const one = imported(archive(1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0), 'magnitude', base);
    assert.deepEqual(first(one), [1, 2, 1, 0]); // 1 at 0 with 0 at 2; 0s; 1 with 4; 0s
  });
});

describe('what is no mask for the model', () => {
  const good = bitsOf(chosen(GROUPS, 0));
  const data = packBits(good);
  const array = numpyArray("'|u1'", [data.length], data);
  const name = `${FIRST}.mask.npy`;
  const refused = (archive: Uint8Array, message: RegExp): void =>
    assert.throws(
      () => imported(archive),
      (error: Error) => {
        assert.match(error.message, message);
        assert.match(error.message, /^\S+\.npz: /);
        assert.doesNotMatch(error.message, /\n/);
        return true;
      },
    );

  test('a group that keeps three or four is refused with the count and the place', () => {
    const bits = [...good];
    bits.splice(40, 4, 1, 1, 1, 0);
    bits.splice(COLS * 3 + 8, 4, 1, 1, 1, 1);
    refused(
      numpyZip([packed(bits)]),
      new RegExp(
        `at most 2 kept weights .* but 2 of ${GROUPS} groups keep more, the first in ${FIRST}, row 1, columns 8 to 11: it is not 2:4`,
      ),
    );
  });

  test('masks of another shape, of other parameters, twice, or none are refused', () => {
    refused(
      numpyZip([packed(good.slice(0, 80))]),
      /expected 128 bytes of numpy\.packbits, or 1024 booleans, for its shape 32x32, but it has 10 bytes/,
    );
    refused(numpyZip([{ name, bytes: numpyArray("'|b1'", [128], new Uint8Array(128)) }]), /but it has 128 booleans/);
    refused(
      numpyZip([packed(good, 'lm_head.weight.mask.npy')]),
      /lm_head\.weight\.mask\.npy, which is no linear layer of .*; check --model/,
    );
    refused(
      numpyZip([packed(good), { name: 'README', bytes: Buffer.from('hello') }]),
      /it has README, which is no linear layer/,
    );
    refused(
      numpyZip([packed(good), packed(good, `${FIRST}.npy`)]),
      /expected one mask for .*q_proj\.weight, but it has two/,
    );
    refused(numpyZip([]), /expected masks, but the archive is empty/);
  });

  test('arrays that numpy knows and masks are not are refused by their kind', () => {
    refused(numpyZip([{ name, bytes: numpyArray("'<f4'", [32], data) }]), /its type is '<f4'/);
    refused(numpyZip([{ name, bytes: numpyArray("'|O'", [128], data) }]), /its type is '\|O'/);
    refused(numpyZip([{ name, bytes: numpyArray("[('a', '|u1')]", [128], data) }]), /its type is \[/);
    const booleans = Uint8Array.from(good);
    refused(
      numpyZip([{ name, bytes: numpyArray("'|b1'", [ROWS, COLS], booleans, true) }]),
      /column-major .*numpy\.ascontiguousarray/,
    );
    refused(
      numpyZip([{ name, bytes: numpyArray("'|u1'", [129], data) }]),
      /expected 129 bytes for its shape \(129\), but it has 128/,
    );
    refused(numpyZip([{ name, bytes: array.subarray(0, 30) }]), /its \.npy header of 118 bytes is damaged/);
    refused(numpyZip([{ name, bytes: Buffer.from('no array') }]), /expected a numpy array/);
  });

  test('a file of torch.save, which is an archive too, is named as such', () => {
    refused(
      numpyZip([{ name: 'masks/data.pkl', bytes: Buffer.from([0x80, 2]) }]),
      /a file of torch\.save: .*numpy\.savez_compressed/,
    );
  });

  test('archives that are cut, damaged, encrypted or otherwise packed are refused', () => {
    const archive = numpyZip([packed(good)]);
    refused(archive.subarray(0, archive.length - 30), /does not end as one: wrong file, or cut short/);
    refused(Buffer.from('<html>404</html>'), /does not end as one/);
    refused(Buffer.alloc(0), /does not end as one/);
    refused(archive.subarray(50), /what follows it|outside|damaged/);
    const flipped = Buffer.from(archive);
    flipped[30 + name.length + 20 + 20]! ^= 4; // in the compressed data
    refused(flipped, /is damaged \(.*\); fetch the file again/);
    refused(numpyZip([{ name, bytes: array, claims: { flags: 1 } }]), /is encrypted/);
    refused(numpyZip([{ name, bytes: array, method: 12 }]), /compressed by method 12/);
    refused(numpyZip([{ name, bytes: array, claims: { crc32: 1 } }]), /damaged \(incorrect data check\)/);
    refused(numpyZip([{ name, bytes: array, method: 0, claims: { crc32: 1 } }]), /damaged \(incorrect data check\)/);
  });

  test('archives that inflate to more than they say, or share bytes between entries, are refused', () => {
    const zeros = { name, bytes: new Uint8Array(5_000_000) };
    refused(numpyZip([zeros]), /expected .* to have at most 66560 bytes, but it has 5000000/);
    refused(
      numpyZip([{ ...zeros, claims: { bytes: 256 } }]),
      /is damaged \(Cannot create a Buffer larger than 256 bytes\)/,
    );
    refused(
      numpyZip([{ name, bytes: array, claims: { bytes: array.length + 1 } }]),
      /is damaged \(incorrect length check\)/,
    );
    const twice = [packed(good), { ...packed(good, `${BIASED_LAYERS[3]![0]}.mask.npy`), claims: { offset: 0 } }];
    refused(numpyZip(twice), /reaches into what follows it/);
    refused(numpyZip([{ name, bytes: array, claims: { offset: 0xfffffff0 } }]), /outside its \d+ bytes|reaches into/);
  });

  test('bytes changed at random give masks or one line, never anything else', () => {
    const archive = readFileSync(NUMPY_MADE);
    const change = fc.tuple(fc.nat(archive.length - 1), fc.nat(255));
    fc.assert(
      fc.property(
        fc.array(change, { minLength: 1, maxLength: 4 }),
        fc.option(fc.nat(archive.length)),
        (changes, cut) => {
          const mutated = Buffer.from(archive);
          for (const [at, byte] of changes) mutated[at] = byte;
          try {
            const { masks } = imported(mutated.subarray(0, cut ?? mutated.length));
            assert.ok(masks.length > 0);
          } catch (error) {
            assert.ok(
              error instanceof Error && !(error instanceof assert.AssertionError) && !(error instanceof RangeError),
              String(error),
            );
            assert.match(error.message, /^\S+\.npz: [^\n]+$/);
          } finally {
            rmSync(join(scratch, `${files - 1}.npz`));
          }
        },
      ),
      { numRuns: 300, seed: 5 },
    );
  });
});
