import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { axisOver } from '../../../clients/cli/pictures/axis.js';
import { curvesSvg, drawCurves, type Curves } from '../../../clients/cli/pictures/curves.js';
import { checkPicture, writePicture } from '../../../clients/cli/pictures/svg.js';
import { decodePng, labelsOf } from './pictures-decoded.js';

const folder = mkdtempSync(join(tmpdir(), 'maskctl-curves-'));
after(() => rmSync(folder, { recursive: true }));

const CURVES: Curves = {
  title: 'french <from> general & others',
  xLabel: 'step',
  yLabel: 'perplexity',
  series: [
    {
      name: 'train',
      points: [
        [0, 40],
        [100, 30],
        [200, 24],
        [300, 20],
      ],
    },
    {
      name: 'valid "french"',
      points: [
        [100, 32],
        [300, 19],
      ],
    },
  ],
  levels: [{ name: 'dense 16.62', y: 16.62 }],
};

/** Vertices of each series, in pixels, by subpath. */
function pathsOf(svg: string): number[][][][] {
  return [...svg.matchAll(/<path aria-label="[^"]*" d="([^"]*)"/g)].map(([, d]) =>
    (d as string)
      .split('M')
      .slice(1)
      .map((part) => part.split('L').map((point) => point.split(' ').map(Number))),
  );
}

test('a picture has its title, axis labels, ticks and a legend that names every series and level', () => {
  const labels = labelsOf(curvesSvg(CURVES));
  const expected = [
    ...['french <from> general & others', '0', '50', '100', '150', '200', '250', '300', '20', '25', '30', '35', '40'],
    ...['step', 'perplexity', 'train', 'valid "french"', 'dense 16.62'],
  ];
  assert.deepEqual(labels, expected);
});

test('points lie where the axes say, and the picture shows them in the colours of the legend', async () => {
  const svg = curvesSvg(CURVES);
  const [[train], [valid]] = pathsOf(svg) as [[number[][]], [number[][]]];
  assert.equal(train.length, 4);
  const [x0, x1, x2, x3] = train.map(([x]) => x as number) as [number, number, number, number];
  assert.ok(Math.abs(x1 - x0 - (x2 - x1)) < 0.02 && Math.abs(x2 - x1 - (x3 - x2)) < 0.02 && x0 < x1);
  const [y40, y30, y24, y20] = train.map(([, y]) => y as number) as [number, number, number, number];
  assert.ok(y40 < y30 && Math.abs((y30 - y40) / (y20 - y24) - 10 / 4) < 0.01, 'higher is further up, in proportion');
  assert.equal(valid[0]?.[0], x1);
  const picture = await decodePng(await drawCurves(CURVES));
  assert.deepEqual([picture.width, picture.height], [960, 540]);
  for (const [x, y] of train)
    assert.deepEqual(picture.at(Math.round(x as number), Math.round(y as number)), [0, 114, 178]);
  const [lastX, lastY] = valid.at(-1) as [number, number];
  assert.deepEqual(picture.at(Math.round(lastX), Math.round(lastY)), [213, 94, 0]);
});

test('a logarithmic axis gives equal ratios equal lengths', () => {
  const series = [
    {
      name: 's',
      points: [
        [1, 1],
        [10, 10],
        [100, 1000],
      ] as const,
    },
  ];
  const [[points]] = pathsOf(curvesSvg({ ...CURVES, series, levels: [], logX: true, logY: true })) as [[number[][]]];
  const [a, b, c] = points as [[number, number], [number, number], [number, number]];
  assert.ok(Math.abs(b[0] - a[0] - (c[0] - b[0])) < 0.03);
  assert.ok(Math.abs(2 * (a[1] - b[1]) - (b[1] - c[1])) < 0.03);
});

test('a point that can not be drawn leaves a gap; with none left there is one line', () => {
  const points = [
    [0, 3],
    [1, 4],
    [2, Number.NaN],
    [3, 5],
    [4, Infinity],
    [5, 2],
    [6, -1],
  ] as const;
  const counts = (logY: boolean): number[] =>
    (pathsOf(curvesSvg({ ...CURVES, logY, levels: [], series: [{ name: 's', points }] }))[0] as number[][][]).map(
      (part) => part.length,
    );
  assert.deepEqual(counts(false), [2, 1, 2]);
  assert.deepEqual(counts(true), [2, 1, 1]);
  assert.throws(
    () => curvesSvg({ ...CURVES, title: 'no run', series: [{ name: 's', points: [[0, Number.NaN]] }] }),
    /^Error: expected points to draw as "no run" but received none that is finite$/,
  );
});

test('ticks are round numbers within the axis, far enough apart for their labels', () => {
  const cases: [number, number, boolean, string[]][] = [
    [0, 300, false, ['0', '50', '100', '150', '200', '250', '300']],
    [-3, 3, false, ['-3', '-2', '-1', '0', '1', '2', '3']],
    [0.01, 0.05, false, ['0.01', '0.02', '0.03', '0.04', '0.05']],
    [99.9999, 100.0001, false, ['99.99990', '99.99995', '100.00000', '100.00005', '100.00010']],
    [1e9, 9e9, false, ['2e9', '4e9', '6e9', '8e9']],
    [17, 26, true, ['18', '20', '22', '24', '26']],
    [3, 900, true, ['5', '10', '20', '50', '100', '200', '500', '1,000']],
    [1e-7, 3e4, true, ['1e-6', '0.0001', '0.01', '1', '100', '10,000']],
    [5, 5, false, ['4.8', '4.9', '5.0', '5.1', '5.2']],
    [0, 0, false, ['-0.4', '-0.2', '0', '0.2', '0.4']],
  ];
  for (const [low, high, log, expected] of cases) {
    const axis = axisOver([low, high], 100, 700, log);
    const ticks = axis.ticks.map(({ label }) => label);
    assert.deepEqual(ticks, expected, `${low} to ${high}`);
    const places = axis.ticks.map(({ value }) => axis.at(value));
    places.forEach((place, index) => {
      assert.ok(place >= 100 && place <= 700.001);
      assert.ok(index === 0 || place - (places[index - 1] as number) > 20);
    });
  }
});

test('many series have colours and dashes of their own, and a picture that holds the whole legend', async () => {
  const series = Array.from({ length: 24 }, (_, index) => ({
    name: `run ${index}`,
    points: [
      [0, index],
      [1, index + 1],
    ] as const,
  }));
  const svg = curvesSvg({ ...CURVES, series });
  const styles = [...svg.matchAll(/<path aria-label[^>]*? (stroke="[^>]*)\/>/g)].map(([, style]) => style);
  assert.equal(new Set(styles).size, 24);
  const picture = await decodePng(await drawCurves({ ...CURVES, series }));
  assert.ok(picture.height > 56 + 25 * 22);
});

test('the file name says whether a picture is PNG or SVG', async () => {
  const svg = curvesSvg(CURVES);
  const [asPng, asSvg] = [join(folder, 'run.png'), join(folder, 'run.SVG')];
  await checkPicture(asPng, '--plot', ['png', 'svg']);
  await checkPicture(asSvg, '--plot', ['png', 'svg']);
  await assert.rejects(
    checkPicture(join(folder, 'run.pdf'), '--plot', ['png', 'svg']),
    /^Error: expected --plot to be a file name that ends in \.png or \.svg but received .*run\.pdf$/,
  );
  await writePicture(asPng, svg);
  await writePicture(asSvg, svg);
  assert.equal(readFileSync(asSvg, 'utf8'), svg);
  assert.equal((await decodePng(readFileSync(asPng))).width, 960);
});
