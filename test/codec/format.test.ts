import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { CODEC_ERRORS } from '../../codec/errors.js';
import { LIMITS } from '../../codec/limits.js';
import { maxBytes, minBytes } from '../../codec/uniform-ac.js';

const FORMAT = readFileSync(new URL('../../../codec/FORMAT.md', import.meta.url), 'utf8');

/** Described where they are listed. */
const WRITER_ERRORS = ['`bad-symbol`', '`bad-digest`'];

describe('FORMAT.md', () => {
  it('lists the errors of the code: same codes, same order, same sentences', () => {
    const listed = tableRows(section(10)).map(([code, , sentence]) => [code!.replaceAll('`', ''), sentence]);
    assert.deepEqual(listed, Object.entries(CODEC_ERRORS));
  });

  it('names every error in the section that the table sends the reader to', () => {
    for (const [code, where] of tableRows(section(10))) {
      if (WRITER_ERRORS.includes(code!)) continue;
      for (const [, number] of where!.matchAll(/§(\d+)/g)) {
        assert.ok(section(Number(number)).includes(code!), `${code} in §${number}`);
      }
    }
  });

  it('gives the limits of the code', () => {
    const numbers = (cell: string): number => Number(/[\d,]+/.exec(cell)![0].replaceAll(',', ''));
    const listed = tableRows(section(9)).flatMap(([what, least, most]) =>
      what!
        .split(', ')
        .map((name) => [name === 'symbols of one tensor' ? 'groups' : name, [numbers(least!), numbers(most!)]]),
    );
    assert.deepEqual(Object.fromEntries(listed), LIMITS);
  });

  it('gives the length bounds of uniform-ac', () => {
    for (const [, b, patterns] of section(7).matchAll(/(\d{4}) for P = (\d+)/g)) {
      for (const symbols of [1, 2, 30, 31, 4096, 65_536, 2 ** 20]) {
        assert.equal(minBytes(symbols, Number(patterns)), Math.max(1, Math.floor((symbols * Number(b)) / 8000) - 8));
        assert.equal(maxBytes(symbols, Number(patterns)), Math.floor((symbols * (Number(b) + 1)) / 8000) + 2);
      }
      assert.equal(Number(b), Math.floor(1000 * Math.log2(Number(patterns))));
    }
  });
});

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
