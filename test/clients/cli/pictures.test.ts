import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { MaskSet } from '../../../codec/mask-set.js';
import { patternTable } from '../../../codec/pattern.js';
import { type Colour, SIX_COLOURS } from '../../../clients/cli/pictures/colours.js';
import { layerGrid } from '../../../clients/cli/pictures/layer-grid.js';
import { drawSheet, sheetSvg } from '../../../clients/cli/pictures/mask-sheet.js';
import { patternColours } from '../../../clients/cli/pictures/pattern-colours.js';
import { layOutSheet, type Panel } from '../../../clients/cli/pictures/sheet-layout.js';
import { svgDocument, svgToPng } from '../../../clients/cli/pictures/svg.js';
import { shortened, text, textWidth } from '../../../clients/cli/pictures/text.js';
import { Random } from '../../../server/engine/random.js';
import { shippedSet } from '../../shipped-masks.js';
import { TINY } from '../../tiny.js';
import { maskctl } from './maskctl.js';
import { decodePng, type Decoded, labelsOf, WITHOUT_SHARP } from './pictures-decoded.js';

const FRENCH = join(TINY, 'masks', 'french.mask');
const folder = mkdtempSync(join(tmpdir(), 'maskctl-pictures-'));
after(() => rmSync(folder, { recursive: true }));

/** Colours of a panel, row by row. */
function* pixelsOf(picture: Decoded, { x, y, width, height }: Panel): Generator<Colour> {
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) yield picture.at(x + column, y + row);
  }
}

test('inspect --png draws every group of every matrix in the colour of its pattern', async () => {
  const png = join(folder, 'french.png');
  const { code, stdout, stderr } = await maskctl(['inspect', FRENCH, '--png', png, '--json']);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
  assert.equal((JSON.parse(stdout) as { png: string }).png, png);
  const picture = await decodePng(readFileSync(png));
  const { masks, m } = shippedSet('french');
  const layout = layOutSheet(masks, m);
  assert.deepEqual({ width: picture.width, height: picture.height }, { width: layout.width, height: layout.height });
  assert.deepEqual(layout.scale, { rows: 1, groups: 1 });
  masks.forEach(({ name, rows, cols, symbols }, index) => {
    const panel = layout.panels[index] as Panel;
    assert.deepEqual([panel.width, panel.height], [cols / 4, rows], name);
    const drawn = Uint8Array.from(pixelsOf(picture, panel), (colour) =>
      SIX_COLOURS.findIndex((own) => own.join() === colour.join()),
    );
    assert.deepEqual(Buffer.compare(drawn, symbols), 0, name);
  });
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.endsWith('.part')),
    [],
  );
});

test('people are told where the picture went, and without --png the JSON says there is none', async () => {
  const png = join(folder, 'told.png');
  const { stdout } = await maskctl(['inspect', FRENCH, '--png', png]);
  assert.ok(stdout.includes(`picture  ${png}`), stdout);
  const plain = await maskctl(['inspect', FRENCH, '--json']);
  assert.equal((JSON.parse(plain.stdout) as { png: null }).png, null);
});

test('layers are rows and kinds of matrices are columns; no panel overlaps another or leaves the picture', () => {
  const { masks } = shippedSet('french');
  const { panels, places, rowLabels, columnLabels, width, height } = layOutSheet(masks, 4);
  assert.deepEqual(columnLabels, ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']);
  assert.deepEqual(rowLabels[5], 'layer 5');
  masks.forEach(({ name }, index) => {
    const { row, column } = places[index] as { row: number; column: number };
    assert.ok(name.includes(`.layers.${row}.`) && name.includes(`.${columnLabels[column]}.`), name);
  });
  for (const a of panels) {
    assert.ok(a.x >= 0 && a.y >= 0 && a.x + a.width <= width && a.y + a.height <= height);
    for (const b of panels) {
      const apart = a.x + a.width <= b.x || b.x + b.width <= a.x || a.y + a.height <= b.y || b.y + b.height <= a.y;
      assert.ok(a === b || apart);
    }
  }
});

test('title, digest, rate, legend with shares, names and shapes are written into the picture', () => {
  const tensors = [
    { name: 'model.layers.3.self_attn.q_proj.weight', rows: 8, cols: 16 },
    { name: 'lm_head.weight', rows: 4, cols: 16 },
  ];
  const sheet = {
    title: '<é & "x">.mask',
    digest: '3f9a52c01b7e'.padEnd(64, '0'),
    n: 2,
    m: 4,
    bitsPerParameter: 0.65114,
    tensors,
  };
  const svg = sheetSvg(sheet, layOutSheet(tensors, 4), patternColours(2, 4), [24, 12, 6, 3, 3, 0]);
  const labels = labelsOf(svg);
  for (const expected of [
    '<é & "x">.mask',
    'digest 3f9a52c01b7e  ·  2:4  ·  192 parameters  ·  0.6511 bit per parameter',
    '1 pixel = 1 group: 4 neighbouring weights of a row',
    ...['1100  50.0%', '1010  25.0%', '1001  12.5%', '0110  6.3%', '0101  6.3%', '0011  0.0%'],
    ...['layer 3', 'q_proj', '8 × 16', 'no layer', 'lm_head', '4 × 16'],
  ]) {
    assert.ok(labels.includes(expected), `${expected} in ${labels.join(' | ')}`);
  }
});

test('a picture that would be too large is scaled down to the most frequent pattern of each block, and says so', async () => {
  const [rows, cols] = [1024, 512];
  const random = new Random(5);
  const planted = (row: number, group: number): number => (Math.floor(row / 64) + Math.floor(group / 16)) % 6;
  const symbols = Uint8Array.from({ length: (rows * cols) / 4 }, (_, at) =>
    random.uniform() < 0.6 ? planted(Math.floor(at / 128), at % 128) : Math.floor(random.uniform() * 6),
  );
  const tensors = [{ name: 'model.layers.0.mlp.up_proj.weight', rows, cols }];
  const sheet = { title: 'large', digest: '0'.repeat(64), n: 2, m: 4, bitsPerParameter: 0.65, tensors };
  const layout = layOutSheet(tensors, 4, 800);
  assert.deepEqual(layout.scale, { rows: 2, groups: 1 });
  const picture = await decodePng(await drawSheet(sheet, () => symbols, 800));
  assert.ok(picture.width <= 800 && picture.height <= 800);
  const panel = layout.panels[0] as Panel;
  assert.deepEqual([panel.width, panel.height], [128, 512]);
  const labels = labelsOf(sheetSvg(sheet, layout, patternColours(2, 4), [1, 0, 0, 0, 0, 0]));
  assert.ok(labels.includes('scaled down: 1 pixel = 2 rows × 1 group, coloured by the most frequent pattern'));
  let at = 0;
  for (const colour of pixelsOf(picture, panel)) {
    const [row, group] = [2 * Math.floor(at / 128), at % 128];
    const pair = [symbols[row * 128 + group] as number, symbols[(row + 1) * 128 + group] as number];
    assert.deepEqual(colour, SIX_COLOURS[Math.min(...pair)], `pixel ${at}`); // of two, equally frequent or the same, the smaller
    at += 1;
  }
});

test('blocks of a larger scale show the pattern that was planted in them', async () => {
  const [rows, cols] = [8192, 2048];
  const symbols = new Uint8Array((rows * cols) / 4);
  const random = new Random(6);
  for (let i = 0; i < symbols.length; i++) {
    const [row, group] = [Math.floor(i / 512), i % 512];
    const half = (row < 4096 ? 0 : 3) + (group < 256 ? 0 : 1);
    symbols[i] = random.uniform() < 0.5 ? half : Math.floor(random.uniform() * 6);
  }
  const tensors = [{ name: 'w', rows, cols }];
  const sheet = { title: 'huge', digest: '0'.repeat(64), n: 2, m: 4, bitsPerParameter: 0.65, tensors };
  const layout = layOutSheet(tensors, 4, 760);
  assert.deepEqual(layout.scale, { rows: 14, groups: 4 });
  const picture = await decodePng(await drawSheet(sheet, () => symbols, 760));
  const { x, y, width, height } = layout.panels[0] as Panel;
  for (const [dx, dy, half] of [
    [10, 10, 0],
    [width - 10, 10, 1],
    [10, height - 10, 3],
    [width - 10, height - 10, 4],
  ] as const) {
    assert.deepEqual(picture.at(x + dx, y + dy), SIX_COLOURS[half]);
  }
});

test('4:8 is coloured by the kept weights of the first half, 1:4 by its four patterns', async () => {
  for (const [n, m] of [
    [4, 8],
    [1, 4],
  ] as const) {
    const { count, positions } = patternTable(n, m);
    const symbols = Uint8Array.from({ length: count }, (_, symbol) => symbol);
    const tensors = [{ name: 'w', rows: 1, cols: count * m }];
    const sheet = { title: 'w', digest: '0'.repeat(64), n, m, bitsPerParameter: 1, tensors };
    const picture = await decodePng(await drawSheet(sheet, () => symbols));
    const panel = layOutSheet(tensors, m).panels[0] as Panel;
    const expected = positions.map((kept, symbol) =>
      m === 8 ? kept.filter((position) => position < 4).length : symbol,
    );
    assert.deepEqual(
      [...pixelsOf(picture, panel)],
      expected.map((colour) => SIX_COLOURS[colour]),
    );
  }
  assert.deepEqual(patternColours(4, 8).labels, ['0 + 4 kept', '1 + 3 kept', '2 + 2 kept', '3 + 1 kept', '4 + 0 kept']);
  assert.deepEqual(patternColours(1, 4).labels, ['1000', '0100', '0010', '0001']);
});

test('the six colours stay apart in the eyes of people with any common colour vision', () => {
  // Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB; distance in CIELAB, where 2.3 is just noticed.
  const visions = {
    normal: [
      [1, 0, 0],
      [0, 1, 0],
      [0, 0, 1],
    ],
    protanopia: [
      [0.152286, 1.052583, -0.204868],
      [0.114503, 0.786281, 0.099216],
      [-0.003882, -0.048116, 1.051998],
    ],
    deuteranopia: [
      [0.367322, 0.860646, -0.227968],
      [0.280085, 0.672501, 0.047413],
      [-0.01182, 0.04294, 0.968881],
    ],
    tritanopia: [
      [1.255528, -0.076749, -0.178779],
      [-0.078411, 0.930809, 0.147602],
      [0.004733, 0.691367, 0.3039],
    ],
  };
  for (const [vision, matrix] of Object.entries(visions)) {
    const seen = SIX_COLOURS.map((colour) => {
      const rgb = colour.map((channel) =>
        channel / 255 <= 0.04045 ? channel / 255 / 12.92 : ((channel / 255 + 0.055) / 1.055) ** 2.4,
      );
      return lab(matrix.map((row) => row.reduce((sum, weight, channel) => sum + weight * (rgb[channel] as number), 0)));
    });
    seen.forEach((one, index) =>
      seen.slice(0, index).forEach((other, otherIndex) => {
        const distance = Math.hypot(...one.map((value, axis) => value - (other[axis] as number)));
        assert.ok(distance > 15, `${vision}: ${otherIndex} and ${index} are ${distance} apart`);
      }),
    );
  }
});

function lab(linear: readonly number[]): number[] {
  const [r, g, b] = linear.map((value) => Math.min(1, Math.max(0, value))) as [number, number, number];
  const white = [
    0.4124 * r + 0.3576 * g + 0.1805 * b,
    0.2126 * r + 0.7152 * g + 0.0722 * b,
    0.0193 * r + 0.1192 * g + 0.9505 * b,
  ];
  const [x, y, z] = white.map((value, axis) => {
    const share = value / ([0.9505, 1, 1.089][axis] as number);
    return share > 0.008856 ? Math.cbrt(share) : 7.787 * share + 16 / 116;
  }) as [number, number, number];
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

test('a picture is the same, text included, on a machine without fonts', async () => {
  const svg = svgDocument(300, 40, 'text', [text(10, 25, 'layer 3  q_proj  1.31%')]);
  const words = await decodePng(await svgToPng(svg));
  let dark = 0;
  for (let x = 0; x < 300; x++) for (let y = 0; y < 40; y++) if (words.at(x, y)[0] < 100) dark += 1;
  assert.ok(dark > 100, `${dark} dark pixels`);
  const fonts = join(folder, 'no-fonts.conf');
  writeFileSync(fonts, '<?xml version="1.0"?><fontconfig></fontconfig>');
  const [here, there] = [join(folder, 'here.png'), join(folder, 'there.png')];
  assert.equal((await maskctl(['inspect', FRENCH, '--png', here])).code, 0);
  assert.equal((await maskctl(['inspect', FRENCH, '--png', there], { env: { FONTCONFIG_FILE: fonts } })).code, 0);
  assert.ok(readFileSync(here).equals(readFileSync(there)));
});

test('text is escaped, and a character that no picture can show does not break it', async () => {
  for (const content of ['</svg><script>"\'&', '\u0000\u0007\ufffe', '\ud800', '漢字 🎭', '', '\n']) {
    const svg = svgDocument(100, 20, content, [text(2, 15, content, { colour: '"/><x y="' })]);
    assert.ok(!svg.includes('<script') && !svg.includes('<x'), svg);
    assert.equal((await decodePng(await svgToPng(svg))).width, 100, JSON.stringify(content));
  }
});

test('text that is too long loses its middle', () => {
  const long = `${'a'.repeat(60)}-end.mask`;
  const short = shortened(long, 200);
  assert.match(short, /^a+….*-end\.mask$/);
  assert.ok(textWidth(short) <= 200 && textWidth(short) > 180);
  assert.equal(shortened('fits', 200), 'fits');
});

test('names of other models find their place, and no two names the same one', () => {
  const names = [
    'lm_head.weight',
    'decoder.layers.10.mlp.experts.0.up_proj.weight',
    'decoder.layers.2.mlp.experts.0.up_proj.weight',
    'encoder.layers.2.self_attn.q_proj.weight',
    'encoder.layers.2.cross.q_proj.weight',
    'encoder.layers.2.q_proj.weight',
  ];
  const { rowLabels, columnLabels, places } = layerGrid(names);
  assert.deepEqual(rowLabels, ['decoder.layer 2', 'decoder.layer 10', 'encoder.layer 2', 'no layer']);
  assert.deepEqual(columnLabels, ['self_attn.q_proj', 'q_proj', 'lm_head', 'experts.0.up_proj', 'cross.q_proj']);
  assert.equal(new Set(places.map(({ row, column }) => `${row} ${column}`)).size, names.length);
});

test('without sharp, one line says what to install, before any work; commands that draw nothing need none', async () => {
  const png = join(folder, 'never.png');
  const { code, stdout, stderr } = await maskctl(['inspect', FRENCH, '--png', png], { env: WITHOUT_SHARP });
  assert.deepEqual({ code, stdout }, { code: 1, stdout: '' });
  assert.equal(stderr, 'maskctl: pictures need the optional package sharp: npm i sharp\n');
  assert.ok(!existsSync(png));
  assert.equal((await maskctl(['inspect', FRENCH], { env: WITHOUT_SHARP })).code, 0);
});

test('a picture that has another ending, or no folder to be in, is refused', async () => {
  const cases: [string, RegExp][] = [
    [FRENCH, /expected --png to be a file name that ends in \.png but received .*french\.mask/],
    [join(folder, 'nowhere', 'x.png'), /expected a directory at .*nowhere to write x\.png into/],
  ];
  const before = readFileSync(FRENCH);
  for (const [png, message] of cases) {
    const { code, stdout, stderr } = await maskctl(['inspect', FRENCH, '--png', png]);
    assert.match(stderr, message);
    assert.match(stderr, /^maskctl: [^\n]*\n$/);
    assert.deepEqual({ code, stdout }, { code: 2, stdout: '' });
  }
  assert.ok(readFileSync(FRENCH).equals(before));
});

test('a set of more matrices than a picture can hold is refused with their number', () => {
  const set: Pick<MaskSet, 'masks'> = {
    masks: Array.from({ length: 400 }, (_, layer) => ({
      name: `layers.${layer}.w`,
      rows: 4,
      cols: 4,
      symbols: new Uint8Array(4),
    })),
  };
  assert.throws(() => layOutSheet(set.masks, 4), /^Error: 400 matrices do not fit into one picture$/);
});
