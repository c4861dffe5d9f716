import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { CODERS } from '../../codec/coder.js';
import { contentDigest } from '../../codec/content-digest.js';
import { ContainerReader, decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet, type EncodeOptions } from '../../codec/encode.js';
import { CODEC_ERRORS } from '../../codec/errors.js';
import { LIMITS } from '../../codec/limits.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { symbolsToNibbles } from '../../codec/pattern.js';
import { encodeUniform, maxBytes, minBytes } from '../../codec/uniform-ac.js';

const FORMAT = readFileSync(new URL('../../../codec/FORMAT.md', import.meta.url), 'utf8');

/** Described where they are listed. */
const WRITER_ERRORS = ['`bad-symbol`', '`bad-digest`'];

const NAMES_IN_CODE: Readonly<Record<string, string>> = {
  groups: 'setGroups',
  'groups of one tensor': 'groups',
  'sets in a chain': 'chain',
};

describe('FORMAT.md', () => {
  it('lists the errors of the code: same codes, same order, same sentences', () => {
    const listed = tableRows(section(12)).map(([code, , sentence]) => [code!.replaceAll('`', ''), sentence]);
    assert.deepEqual(listed, Object.entries(CODEC_ERRORS));
  });

  it('names every error in the section that the table sends the reader to', () => {
    for (const [code, where] of tableRows(section(12))) {
      if (WRITER_ERRORS.includes(code!)) continue;
      for (const [, number] of where!.matchAll(/§(\d+)/g)) {
        assert.ok(section(Number(number)).includes(code!), `${code} in §${number}`);
      }
    }
  });

  it('gives the limits of the code', () => {
    const numbers = (cell: string): number => Number(/[\d,]+/.exec(cell)![0].replaceAll(',', ''));
    const listed = tableRows(section(11)).flatMap(([what, least, most]) =>
      what!.split(', ').map((name) => [NAMES_IN_CODE[name] ?? name, [numbers(least!), numbers(most!)]]),
    );
    assert.deepEqual(Object.fromEntries(listed), LIMITS);
  });

  it('gives the length bounds of uniform-ac', () => {
    for (const [, b, patterns] of section(8).matchAll(/(\d{4}) for P = (\d+)/g)) {
      for (const symbols of [1, 2, 30, 31, 4096, 65_536, 2 ** 20]) {
        assert.equal(minBytes(symbols, Number(patterns)), Math.max(1, Math.floor((symbols * Number(b)) / 8000) - 8));
        assert.equal(maxBytes(symbols, Number(patterns)), Math.floor((symbols * (Number(b) + 1)) / 8000) + 2);
      }
      assert.equal(Number(b), Math.floor(1000 * Math.log2(Number(patterns))));
    }
  });

  it('gives examples of chunks that the coder writes', () => {
    const examples = tableRows(section(8));
    assert.ok(examples.length >= 6);
    for (const [patterns, symbols, chunk] of examples) {
      const out = new Uint8Array(20);
      const bytes = encodeUniform(Uint8Array.from(symbols!.split(' '), Number), Number(patterns), out, 0);
      assert.equal('`' + Buffer.from(out.subarray(0, bytes)).toString('hex') + '`', chunk);
    }
  });

  it('gives the coders of the code', () => {
    const listed = tableRows(section(7)).map(([id, name, needs]) => [Number(id), name!.replaceAll('`', ''), needs]);
    assert.deepEqual(
      listed,
      CODERS.map(({ id, name, needsParent, needsWeights }) => [
        id,
        name,
        [...(needsParent ? ['parent'] : []), ...(needsWeights ? ['weights'] : [])].join(', '),
      ]),
    );
  });

  it('gives examples of containers: of version 2 what the encoder writes, of version 1 what decodes to the same', () => {
    const text = section(15);
    const [version1, root, child] = examples(text) as [Uint8Array, Uint8Array, Uint8Array];
    const mask = { name: 'w', rows: 2, cols: 12, symbols: Uint8Array.of(0, 1, 2, 3, 4, 5) };
    const set = { n: 2, m: 4, base: '1'.padStart(64, '0'), masks: [mask] };
    assert.deepEqual(decodeMaskSet(version1), set);
    assert.deepEqual(encodeMaskSet(set), root);
    const symbols = Uint8Array.of(0, 1, 2, 3, 1, 5);
    const parent = contentDigest(set);
    assert.deepEqual(encodeMaskSet({ ...set, parent, masks: [{ ...mask, symbols }] }, patchOf(set)), child);
    for (const bytes of [version1, root, child]) {
      assert.ok(text.replaceAll('\n', ' ').includes(`in ${bytes.length} bytes`), `${bytes.length} bytes`);
    }
    assert.ok(text.includes(`\`${Buffer.from(symbolsToNibbles(mask.symbols)).toString('hex')}\``));
    assert.ok(text.replaceAll('\n', ' ').includes(new ContainerReader(root).summary.content));
  });
});

const patchOf = (parent: MaskSet): EncodeOptions => ({ context: { parent }, coder: 'patch' });

/** The bytes of each code block that begins with a hexadecimal line. */
function examples(text: string): Uint8Array[] {
  return [...text.matchAll(/```\n((?:[0-9a-f]{2} )[^`]*)```/g)].map(([, block]) => {
    const lines = [...block!.matchAll(/^(?:[0-9a-f]{2} ){0,15}[0-9a-f]{2}/gm)].map(([line]) =>
      line.replaceAll(' ', ''),
    );
    return Uint8Array.from(Buffer.from(lines.join(''), 'hex'));
  });
}

function section(number: number): string {
  const start = FORMAT.indexOf(`\n## ${number}.`);
  assert.ok(start >= 0, `no section ${number}`);
  const end = FORMAT.indexOf('\n## ', start + 1);
  return FORMAT.slice(start, end < 0 ? undefined : end);
}

/** Cells of all tables of a text, without the heading and rule of each. */
function tableRows(text: string): string[][] {
  const lines = text.split('\n');
  return lines
    .filter((line, i) => line.startsWith('|') && !line.startsWith('| -') && !(lines[i + 1] ?? '').startsWith('| -'))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
}
