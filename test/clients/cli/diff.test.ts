import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { contentDigest } from '../../../codec/content-digest.js';
import { decodeMaskSet } from '../../../codec/decode.js';
import { encodeMaskSet } from '../../../codec/encode.js';
import type { Mask, MaskSet } from '../../../codec/mask-set.js';
import { symbolsToNibbles } from '../../../codec/pattern.js';
import { compareSymbols } from '../../../clients/cli/pictures/difference.js';
import { luminance } from '../../../clients/cli/pictures/colours.js';
import { heatMapSvg, layOutHeatMap, percent, type HeatMap } from '../../../clients/cli/pictures/heat-map.js';
import { svgToPng } from '../../../clients/cli/pictures/svg.js';
import { addRates, NO_RATE, rateOf } from '../../../server/trainer/rate.js';
import { shippedSet } from '../../shipped-masks.js';
import { TINY } from '../../tiny.js';
import { maskctl, type RunOptions } from './maskctl.js';
import { decodePng, labelsOf, WITHOUT_SHARP } from './pictures-decoded.js';
import { randomTinyMask, serveTiny, type Served } from './served.js';

const [GENERAL, FRENCH] = ['general', 'french'].map((name) => join(TINY, 'masks', `${name}.mask`)) as [string, string];
const folder = mkdtempSync(join(tmpdir(), 'maskctl-diff-'));
let server: Served;
before(async () => {
  server = await serveTiny();
});
after(async () => {
  await server.close();
  rmSync(folder, { recursive: true });
});

interface Numbers {
  readonly groups: number;
  readonly changed: number;
  readonly changedShare: number;
  readonly singleSwaps: number;
  readonly singleSwapShare: number | null;
  readonly bits: number;
  readonly bitsPerParameter: number;
}

interface Side {
  readonly name: string;
  readonly file: string | null;
  readonly task: string | null;
  readonly digest: string;
  readonly contentDigest: string;
}

interface Compared extends Numbers {
  readonly a: Side;
  readonly b: Side;
  readonly baseDigest: string;
  readonly parameters: number;
  readonly png: string | null;
  readonly matrices: readonly (Numbers & { readonly name: string; readonly rows: number; readonly cols: number })[];
}

const UP = 'model.layers.0.mlp.up_proj.weight';
const DOWN = 'model.layers.0.mlp.down_proj.weight';

function matrix(name: string, rows: number, cols: number, ...symbols: number[]): Mask {
  return { name, rows, cols, symbols: Uint8Array.from(symbols) };
}

function saved(name: string, set: Partial<MaskSet> & Pick<MaskSet, 'masks'>): string {
  const path = join(folder, name);
  writeFileSync(path, encodeMaskSet({ n: 2, m: 4, base: 'ab'.repeat(32), ...set }));
  return path;
}

async function diff(args: readonly string[], options: RunOptions = {}): Promise<Compared> {
  const { code, stdout, stderr } = await maskctl(['diff', ...args, '--json'], options);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' }, args.join(' '));
  return JSON.parse(stdout) as Compared;
}

async function fail(args: readonly string[], message: RegExp, exit = 1, options: RunOptions = {}): Promise<void> {
  const { code, stdout, stderr } = await maskctl(['diff', ...args], options);
  assert.match(stderr, message);
  assert.match(stderr, /^maskctl: [^\n]*\n$/);
  assert.deepEqual({ code, stdout }, { code: exit, stdout: '' }, args.join(' '));
}

const a = saved('a.mask', { masks: [matrix(UP, 2, 16, 0, 0, 0, 0, 5, 5, 2, 3), matrix(DOWN, 1, 8, 1, 1)] });
// 1100 → 1010 is a single swap, 1100 → 0011 is two; 0011 → 0110 one. In DOWN nothing changes.
const b = saved('b.mask', { masks: [matrix(DOWN, 1, 8, 1, 1), matrix(UP, 2, 16, 0, 0, 1, 5, 5, 3, 2, 3)] });

test('numbers are those of a hand computation, by matrix and in all, in whatever order B has its matrices', async () => {
  const compared = await diff([a, b]);
  const [up, down] = compared.matrices;
  // Of four 1100: two stay, one each goes to 1010 and 0011: 4 · (½·1 + ¼·2 + ¼·2) = 6 bits. Of two 0011 one changes: 2 bits.
  assert.deepEqual(up, {
    name: UP,
    rows: 2,
    cols: 16,
    groups: 8,
    changed: 3,
    changedShare: 3 / 8,
    singleSwaps: 2,
    singleSwapShare: 2 / 3,
    bits: 8,
    bitsPerParameter: 8 / 32,
  });
  assert.deepEqual(down, {
    name: DOWN,
    rows: 1,
    cols: 8,
    groups: 2,
    changed: 0,
    changedShare: 0,
    singleSwaps: 0,
    singleSwapShare: null,
    bits: 0,
    bitsPerParameter: 0,
  });
  const { matrices, a: sideA, b: sideB, ...total } = compared;
  assert.equal(matrices.length, 2);
  assert.deepEqual(total, {
    baseDigest: 'ab'.repeat(32),
    n: 2,
    m: 4,
    parameters: 40,
    png: null,
    groups: 10,
    changed: 3,
    changedShare: 0.3,
    singleSwaps: 2,
    singleSwapShare: 2 / 3,
    bits: 8,
    bitsPerParameter: 0.2,
  });
  assert.equal(sideA.file, a);
  assert.equal(sideB.contentDigest, contentDigest(decodeMaskSet(readFileSync(b))));
});

test('the shipped masks: as the trainer counts them', async () => {
  const compared = await diff([GENERAL, FRENCH]);
  const [general, french] = ['general', 'french'].map(shippedSet) as [MaskSet, MaskSet];
  const rate = general.masks
    .map(({ symbols }, index) =>
      rateOf(symbolsToNibbles(symbols), symbolsToNibbles((french.masks[index] as Mask).symbols)),
    )
    .reduce(addRates, NO_RATE);
  assert.equal(compared.groups, rate.groups);
  assert.equal(compared.changed, rate.changed);
  assert.ok(compared.changed > 0 && compared.singleSwaps > 0 && compared.singleSwaps <= compared.changed);
  assert.ok(Math.abs(compared.bits - rate.bits) <= 1e-9 * rate.bits, `${compared.bits} and ${rate.bits}`);
  assert.equal(compared.matrices.length, general.masks.length);
});

test('4:8 counts swaps among eight, and a mask does not differ from itself', () => {
  // Symbol 0 keeps 0123, 1 keeps 0124, 69 keeps 4567.
  const { changed, singleSwaps, parameters } = compareSymbols(Uint8Array.of(0, 0, 1), Uint8Array.of(1, 69, 1), 4, 8);
  assert.deepEqual({ changed, singleSwaps, parameters }, { changed: 2, singleSwaps: 1, parameters: 24 });
  const { masks } = shippedSet('french');
  const { symbols } = masks[0] as Mask;
  const same = compareSymbols(symbols, symbols, 2, 4);
  assert.deepEqual([same.changed, same.singleSwaps, same.bits], [0, 0, 0]);
});

test('people get a table with a line for each matrix and one for all', async () => {
  const { code, stdout } = await maskctl(['diff', a, b]);
  assert.equal(code, 0);
  assert.match(stdout, /^A +.*a\.mask, digest [0-9a-f]{12}, [\d,]+ bytes$/m);
  assert.match(stdout, /^MATRIX +GROUPS +CHANGED +SHARE +SINGLE SWAPS +BIT\/PARAM$/m);
  assert.match(stdout, /^model\.layers\.0\.mlp\.up_proj\.weight +8 +3 +37\.5% +66\.7% +0\.2500$/m);
  assert.match(stdout, /^model\.layers\.0\.mlp\.down_proj\.weight +2 +0 +0% +– +0\.0000$/m);
  assert.match(stdout, /^all +10 +3 +30\.0% +66\.7% +0\.2000$/m);
});

test('masks for other weights, another n:m, other matrices and other shapes are refused with one line', async () => {
  const masks = [matrix(UP, 2, 16, 0, 0, 0, 0, 5, 5, 2, 3), matrix(DOWN, 1, 8, 1, 1)];
  const [up, down] = masks as [Mask, Mask];
  const expected = 'expected two masks for the same weights, but';
  const cases: [string, RegExp][] = [
    [
      saved('base.mask', { masks, base: 'cd'.repeat(32) }),
      new RegExp(`${expected} .*a\\.mask is for the base (ab){32} and .*base\\.mask for (cd){32}$`, 'm'),
    ],
    [
      saved('ratio.mask', {
        masks: masks.map((mask) => ({ ...mask, symbols: mask.symbols.map(() => 1) })),
        n: 1,
      }),
      new RegExp(`${expected} .*a\\.mask is 2:4 and .*ratio\\.mask is 1:4$`, 'm'),
    ],
    [
      saved('fewer.mask', { masks: [up] }),
      new RegExp(`${expected} .*fewer\\.mask has no model\\.layers\\.0\\.mlp\\.down_proj\\.weight$`, 'm'),
    ],
    [
      saved('more.mask', { masks: [up, down, matrix('lm_head.weight', 1, 4, 0)] }),
      new RegExp(`${expected} .*a\\.mask has no lm_head\\.weight$`, 'm'),
    ],
    [
      saved('shape.mask', { masks: [{ ...up, rows: 4, cols: 8 }, down] }),
      new RegExp(
        `${expected} model\\.layers\\.0\\.mlp\\.up_proj\\.weight is 2 × 16 in .*a\\.mask and 4 × 8 in .*shape\\.mask$`,
        'm',
      ),
    ],
  ];
  for (const [other, message] of cases) await fail([a, other], message);
});

test('no such file, a damaged file, another kind of file: one line that names it', async () => {
  await fail([a, join(folder, 'nowhere.mask')], /expected a file at .*nowhere\.mask, but there is none/);
  const text = join(folder, 'notes.txt');
  writeFileSync(text, 'not a mask, but long enough to have been one, perhaps');
  await fail([text, a], /notes\.txt: expected a mask container/);
  const damaged = join(folder, 'damaged.mask');
  const bytes = readFileSync(FRENCH);
  bytes[bytes.length - 5]! ^= 1;
  writeFileSync(damaged, bytes);
  await fail([GENERAL, damaged], /damaged\.mask: expected chunk \d+ (of model\.\S+ )?to have the checksum/);
});

test('a name that is no file is a task of the server: shipped, published, or one of its versions', async () => {
  const env = { MASKSERVE_URL: server.url };
  const [first, second] = [1, 2].map((seed) => {
    const path = join(folder, `random${seed}.mask`);
    writeFileSync(path, encodeMaskSet(randomTinyMask(seed)));
    return path;
  }) as [string, string];
  const local = await diff([GENERAL, FRENCH]);
  const remote = await diff(['general', 'french'], { env, cwd: folder });
  assert.deepEqual([remote.bits, remote.changed, remote.a.digest], [local.bits, local.changed, local.a.digest]);
  assert.deepEqual([remote.a.file, remote.a.task], [null, 'general']);
  for (const file of [first, second]) assert.equal((await maskctl(['push', 'mine', file], { env })).code, 0);
  const files = await diff([first, second]);
  const versions = await diff([`mine@${files.a.digest.slice(0, 12)}`, 'mine'], { env, cwd: folder });
  assert.deepEqual([versions.a.digest, versions.b.digest, versions.bits], [files.a.digest, files.b.digest, files.bits]);
  // A file of the task's name goes first.
  copyFileSync(first, join(folder, 'mine'));
  const shadowed = await diff(['mine', 'general'], { env, cwd: folder });
  assert.deepEqual([shadowed.a.file, shadowed.a.digest], ['mine', files.a.digest]);
});

test('neither a file nor a task: the line says both, also where no server runs', async () => {
  const env = { MASKSERVE_URL: server.url };
  await fail(
    [a, 'spanish'],
    /there is no file spanish here; looked for a task: .*spanish.*"maskctl tasks" lists them/,
    1,
    { env },
  );
  await fail([a, 'dense'], /there is no file dense here; looked for a task: /, 1, { env });
  await fail([a, 'french@0000'], /no version of french has a digest that starts with 0000/, 1, { env });
  await fail([a, 'french'], /there is no file french here; looked for a task: .*maskserve/, 1, {
    env: { MASKSERVE_URL: 'http://127.0.0.1:6553' },
  });
});

const MAP: HeatMap = {
  title: 'b against a',
  notes: ['one', 'two'],
  quantity: 'share of changed groups',
  rowLabels: ['layer 0', 'layer 1'],
  columnLabels: ['q_proj', 'k_proj', 'v_proj'],
  shares: [
    [0, 0.00001, 0.0131],
    [0.12, undefined, 0.351],
  ],
};

test('in a heat map darker is more, every cell says its number, and the bar its range', async () => {
  const picture = await decodePng(await svgToPng(heatMapSvg(MAP)));
  const { width, height, left, top, cellWidth, cellHeight } = layOutHeatMap(MAP);
  assert.deepEqual([picture.width, picture.height], [width, height]);
  const cells = MAP.shares.flatMap((row, y) =>
    row.map((share, x) => ({ share, colour: picture.at(left + cellWidth * x + 2, top + cellHeight * y + 2) })),
  );
  const light = cells
    .flatMap(({ share, colour }) => (share === undefined ? [] : [{ share, light: luminance(colour) }]))
    .sort((one, other) => one.share - other.share)
    .map((one) => one.light);
  for (let i = 2; i < light.length; i++) assert.ok((light[i] as number) < (light[i - 1] as number), light.join(' '));
  assert.ok(
    (light[1] as number) <= (light[0] as number) && (light[0] as number) > 0.9 && (light.at(-1) as number) < 0.15,
  );
  const labels = labelsOf(heatMapSvg(MAP));
  const expected = ['b against a', 'one', 'two', ...MAP.columnLabels, ...MAP.rowLabels];
  expected.push('0%', '<0.01%', '1.31%', '12.0%', '–', '35.1%', '0%', '20.0%', '40.0%', 'share of changed groups');
  assert.deepEqual(labels, expected);
});

test('a heat map of nothing but zeros is light, and its bar has a range', async () => {
  const map = {
    ...MAP,
    shares: [
      [0, 0, 0],
      [0, 0, 0],
    ],
  };
  const picture = await decodePng(await svgToPng(heatMapSvg(map)));
  const { left, top } = layOutHeatMap(map);
  assert.ok(luminance(picture.at(left + 2, top + 2)) > 0.9);
  assert.ok(labelsOf(heatMapSvg(map)).includes('1.00%'));
});

test('diff --png draws what diff says', async () => {
  const png = join(folder, 'heat.png');
  const compared = await diff([GENERAL, FRENCH, '--png', png]);
  assert.equal(compared.png, png);
  const picture = await decodePng(readFileSync(png));
  const shares = Array.from({ length: 6 }, (_, layer) =>
    compared.matrices.slice(7 * layer, 7 * layer + 7).map(({ changedShare }) => changedShare),
  );
  const columnLabels = compared.matrices.slice(0, 7).map(({ name }) => /(\w+)\.weight$/.exec(name)?.[1] as string);
  const rowLabels = shares.map((_, layer) => `layer ${layer}`);
  const map = {
    ...MAP,
    title: 'french.mask against general.mask',
    notes: ['1', '2', '3', '4'],
    rowLabels,
    columnLabels,
    shares,
  };
  const { left, top, cellWidth, cellHeight } = layOutHeatMap(map);
  const expected = await decodePng(await svgToPng(heatMapSvg(map)));
  shares.forEach((row, y) =>
    row.forEach((share, x) => {
      const at = [left + cellWidth * x + 2, top + cellHeight * y + 2] as const;
      assert.deepEqual(picture.at(...at), expected.at(...at), `${y} ${x} ${percent(share)}`);
    }),
  );
});

test('diff draws nothing without sharp, and compares all the same', async () => {
  const png = join(folder, 'never.png');
  await fail([a, b, '--png', png], /pictures need the optional package sharp: npm i sharp/, 1, { env: WITHOUT_SHARP });
  await fail([a, b, '--png', join(folder, 'heat.jpg')], /expected --png to be a file name that ends in \.png/, 2);
  assert.ok(!existsSync(png));
  assert.equal((await diff([a, b], { env: WITHOUT_SHARP })).changed, 3);
});

test('shares are written so that little is not nothing', () => {
  assert.deepEqual([0, 0.00001, 0.0001, 0.0131, 0.0999, 0.1, 1].map(percent), [
    '0%',
    '<0.01%',
    '0.01%',
    '1.31%',
    '9.99%',
    '10.0%',
    '100.0%',
  ]);
});

test('diff --help has examples and is listed', async () => {
  const { stdout } = await maskctl(['diff', '--help']);
  assert.match(stdout, /^ {2}\$ maskctl diff general\.mask french\.mask$/m);
  assert.match((await maskctl(['--help'])).stdout, /^ {2}diff /m);
});
