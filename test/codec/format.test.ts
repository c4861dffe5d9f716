import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { ContainerReader } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { CODEC_ERRORS } from '../../codec/errors.js';
import { LIMITS } from '../../codec/limits.js';
import { symbolsToNibbles } from '../../codec/pattern.js';
import { encodeUniform, maxBytes, minBytes } from '../../codec/uniform-ac.js';

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

  it('gives examples of chunks that the coder writes', () => {
    const examples = tableRows(section(7)).slice(1);
    assert.ok(examples.length >= 6);
    for (const [patterns, symbols, chunk] of examples) {
      const out = new Uint8Array(20);
      const bytes = encodeUniform(Uint8Array.from(symbols!.split(' '), Number), Number(patterns), out, 0);
      assert.equal('`' + Buffer.from(out.subarray(0, bytes)).toString('hex') + '`', chunk);
    }
  });

  it('gives an example of a container that the encoder writes', () => {
    const mask = { name: 'w', rows: 2, cols: 12, symbols: Uint8Array.of(0, 1, 2, 3, 4, 5) };
    const bytes = encodeMaskSet({ n: 2, m: 4, base: '1'.padStart(64, '0'), masks: [mask] });
    const text = section(12);
    const listed = [...text.matchAll(/^(?:[0-9a-f]{2} ){1,15}[0-9a-f]{2}/gm)].map(([line]) => line.replaceAll(' ', ''));
    assert.equal(listed.join(''), Buffer.from(bytes).toString('hex'));
    assert.ok(text.replaceAll('\n', ' ').includes(`in ${bytes.length} bytes`));
    assert.ok(text.includes(`\`${Buffer.from(symbolsToNibbles(mask.symbols)).toString('hex')}\``));
    assert.ok(text.includes(new ContainerReader(bytes).summary.content));
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
