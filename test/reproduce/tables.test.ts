/** What the reproduction makes of its plan, without training. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { MaskSet } from '../../codec/mask-set.js';
import { FULL, QUICK } from './budget.js';
import { labelsOf } from '../clients/cli/pictures-decoded.js';
import { CellCache } from './cell-cache.js';
import { taskDomains } from './domains.js';
import { describe, type Cell, type CellResult } from './cells.js';
import { curvePicture } from './curve-picture.js';
import { tablesMarkdown } from './markdown.js';
import { paperTables, TABLE_IDS, type Table } from './paper-tables.js';
import { filled, tableText } from './print.js';
import { sweepPoints } from './sweep.js';

const DOMAINS = ['c', 'english', 'french'];
const folder = mkdtempSync(join(tmpdir(), 'maskserve-tables-'));
after(() => rmSync(folder, { recursive: true }));

function cellsOf({ rows }: Table): Cell[] {
  return rows.flatMap(({ values }) => values.flatMap(({ parts }) => parts.map(({ cell }) => cell)));
}

test('every table of the list is there, and the default cell is the same in all that have it', () => {
  const tables = paperTables(QUICK, DOMAINS);
  assert.deepEqual(
    tables.map(({ id }) => id),
    TABLE_IDS,
  );
  const [methods, ...others] = tables.map((table) => cellsOf(table).map((cell) => JSON.stringify(cell)));
  const paperMethod = methods?.[4] as string;
  for (const cells of others.slice(0, -1)) assert.ok(cells.includes(paperMethod));
});

test('full learns a mask for every domain, quick for the first ones, and both for those that a person names', () => {
  assert.deepEqual(taskDomains(DOMAINS, FULL.taskDomains), DOMAINS);
  assert.deepEqual(taskDomains(DOMAINS, QUICK.taskDomains), ['c', 'english']);
  assert.deepEqual(taskDomains(DOMAINS, QUICK.taskDomains, 'french,c'), ['french', 'c']);
  assert.throws(() => taskDomains(DOMAINS, 2, 'c,latin'), {
    message: 'expected --domains to name some of c, english, french but received latin',
  });
  const table = paperTables(QUICK, ['french', 'c']).find(({ id }) => id === '5');
  assert.deepEqual(
    table?.rows.at(-1)?.values[0]?.parts.map(({ domain }) => domain),
    ['french', 'c'],
  );
});

test('a value is the mean over its domains, and its row says the settings and the paper’s figure', () => {
  const cell = (domain: string): Cell => ({
    kind: 'one-shot',
    method: 'wanda',
    text: { domain },
    calibrationWindows: 4,
    seed: 0,
    update: false,
  });
  const parts = ['c', 'french'].map((domain) => ({ cell: cell(domain), domain }));
  const table = {
    id: '5',
    title: 'a title',
    rows: [{ label: 'row', values: [{ column: 'PPL', parts, paper: '7.39' }] }],
  };
  const result: CellResult = { perplexities: { c: 10, french: 20, english: 99 }, seconds: 1 };
  const printed = filled(table, () => result);
  assert.equal(printed.rows[0]?.values[0]?.perplexity, 15);
  const text = tableText(printed);
  assert.match(text, /^Table 5 of the paper: a title\n/);
  assert.match(text, /\nrow +15\.00 +7\.39\n {2}row, PPL: wanda, 4 windows of c, seed 0 \(and 1 more domains\)\n/);
});

test('as Markdown all tables are one: a row for each perplexity, each table named once', () => {
  const result: CellResult = { perplexities: { c: 10, french: 20 }, changed: 0.5, bitsPerParameter: 0.25, seconds: 1 };
  const printed = paperTables(QUICK, ['c']).map((table) => filled(table, () => result));
  const lines = tablesMarkdown(printed).split('\n');
  const named = (id: string): string[] => lines.filter((line) => line.startsWith(`| ${id}: `));
  for (const id of TABLE_IDS) assert.equal(named(id).length, 1, id);
  assert.match(named('1')[0] ?? '', /\| dense \| 15\.00 \| 50\.00% \| 0\.2500 \| 12\.42 \|$/);
  const priors = lines.indexOf(named('2')[0] ?? '');
  assert.match(lines[priors + 1] ?? '', /^\| {2}\| magnitude, learned mask \| 15\.00 \| .* \| 16\.07 \|$/);
});

test('a finished cell and its mask come back from the cache, under the same conditions only', () => {
  const conditions = { base: 'b', data: 'd', windows: 4 };
  const [cell] = cellsOf(paperTables(QUICK, DOMAINS)[1] as Table) as [Cell];
  const mask: MaskSet = {
    n: 2,
    m: 4,
    base: '0'.repeat(64),
    masks: [{ name: 'w', rows: 1, cols: 8, symbols: Uint8Array.of(3, 5) }],
  };
  const result: CellResult = { perplexities: { c: 1.5 }, changed: 0.25, bitsPerParameter: 0.1, seconds: 2 };
  new CellCache(folder, conditions).store(cell, result, mask);
  const again = new CellCache(folder, conditions);
  assert.deepEqual(again.result(cell), result);
  assert.deepEqual(again.mask(cell)?.masks, mask.masks);
  assert.equal(new CellCache(folder, { ...conditions, windows: 8 }).result(cell), undefined);
  assert.equal(again.result({ kind: 'dense' }), undefined);
  assert.equal(describe(cell), 'magnitude');
});

test('the sweep goes over methods, losses, steps, travels and seeds, each combination once', () => {
  const points = sweepPoints(FULL);
  const all = points.map(({ method, loss, steps, travel }) => [method, loss, steps, travel].join());
  assert.equal(new Set(all).size, points.length);
  for (const { steps, travel, loss, cells } of points) {
    assert.deepEqual(
      cells.map(({ settings }) => settings.seed),
      FULL.sweepSeeds,
    );
    for (const { settings } of cells) {
      assert.deepEqual([settings.steps, settings.travel, settings.loss], [steps, travel, loss]);
    }
  }
});

test('the curve is drawn: the mean over domains against bits, and each domain against its general mask', () => {
  const table = paperTables(FULL, DOMAINS).find(({ id }) => id === 'curve') as Table;
  const perplexities = Object.fromEntries(DOMAINS.map((name, i) => [name, 10 * (i + 1)]));
  /** A bound costs what it says and gains the more it allows. */
  const resultOf = (cell: Cell): CellResult => {
    if (cell.kind !== 'learned' || cell.text === 'all') return { perplexities, seconds: 1 };
    const { maxBits = 0.1 } = cell.settings;
    const better = Object.fromEntries(DOMAINS.map((name) => [name, (perplexities[name] as number) * (1 - maxBits)]));
    return { perplexities: better, bitsPerParameter: maxBits, changed: maxBits, seconds: 1 };
  };
  const svg = curvePicture(table, resultOf) ?? '';
  const labels = labelsOf(svg);
  for (const label of ['its domain', 'all domains', 'general 20.00', 'dense 20.00', '0.001', '0.1', ...DOMAINS]) {
    assert.ok(labels.includes(label), `${label} in ${labels.join(', ')}`);
  }
  const points = [...svg.matchAll(/<path aria-label="[^"]+" d="([^"]*)"/g)].map(([, d]) => (d as string).split(/[ML]/));
  assert.deepEqual(
    points.map(({ length }) => length - 1),
    Array<number>(2 + DOMAINS.length).fill(5),
  );
  assert.equal(
    curvePicture(table, () => ({ perplexities, seconds: 1 })),
    undefined,
    'no bits',
  );
});
