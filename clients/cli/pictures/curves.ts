/** Curves as a picture: loss and perplexity of a run over its steps, perplexity against bits. */
import { axisOver, type Axis } from './axis.js';
import { hex, SIX_COLOURS } from './colours.js';
import { escapeXml, line, rect, svgDocument, svgToPng } from './svg.js';
import { belowMiddle, LARGE, NORMAL, shortened, SMALL, text, textWidth } from './text.js';

const WIDTH = 960;
const LEAST_HEIGHT = 540;
const MARGIN = 16;
const TOP = 56;
const BOTTOM = 60;
const LEGEND_LINE = 28; // length of a sample
const LEGEND_STEP = 22;
const WIDEST_NAME = 220;
const MOST_MARKERS = 40; // of a series; a denser one is a line
const GRID = '#e4e4e4';
const FRAME = '#999';
const LEVEL = '#555';
const DASHES = ['', '7 4', '2 3', '10 3 2 3'];
/** Yellow is too light for a line on white; black of the same set of eight takes its place. */
const COLOURS = [0, 5, 2, 1, 4].map((index) => hex(SIX_COLOURS[index]!)).concat('#000000');

export type Point = readonly [x: number, y: number];

export interface Series {
  readonly name: string;
  /** In the order they are joined. A point that can't be drawn (NaN, infinite, ≤ 0 on a logarithmic axis) leaves a gap. */
  readonly points: readonly Point[];
}

export interface Curves {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly series: readonly Series[];
  readonly logX?: boolean;
  readonly logY?: boolean;
  /** Dashed horizontal lines with a name, e.g. the dense model's perplexity. */
  readonly levels?: readonly { readonly name: string; readonly y: number }[];
}

/** The picture as PNG, 960 × 540, higher where the legend is long. Throws one line if there is nothing to draw, or no sharp. */
export function drawCurves(curves: Curves): Promise<Buffer> {
  return svgToPng(curvesSvg(curves));
}

/** The same as SVG; needs no sharp. */
export function curvesSvg(curves: Curves): string {
  return stackedCurvesSvg(curves.title, [curves]);
}

/** Several, one below the other. Throws one line if one has nothing to draw. */
export function stackedCurvesSvg(title: string, all: readonly Curves[]): string {
  let y = 0;
  const panels = all.map((curves) => {
    const { height, elements } = panel(curves);
    y += height;
    return y === height ? elements : [`<g transform="translate(0 ${y - height})">`, ...elements, '</g>'];
  });
  return svgDocument(WIDTH, y, title, panels.flat());
}

function panel(curves: Curves): { readonly height: number; readonly elements: string[] } {
  const { title, xLabel, yLabel, series, levels = [], logX = false, logY = false } = curves;
  const drawable = ([x, y]: Point): boolean =>
    Number.isFinite(x) && Number.isFinite(y) && (!logX || x > 0) && (!logY || y > 0);
  const points = series.flatMap((one) => one.points.filter(drawable));
  if (points.length === 0) throw new Error(`expected points to draw as "${title}" but received none that is finite`);
  const shown = levels.filter(({ y }) => drawable([1, y]));
  const names = [...series, ...shown].map(({ name }) => name);
  const height = Math.max(LEAST_HEIGHT, TOP + LEGEND_STEP * names.length + BOTTOM);
  const box = plotBox(names, height);
  const ys = points.map(([, y]) => y).concat(shown.map(({ y }) => y));
  const x = axisOver(
    points.map(([value]) => value),
    box.left,
    box.right,
    logX,
  );
  const y = axisOver(ys, box.bottom, box.top, logY);
  const middle = [(box.left + box.right) / 2, (box.top + box.bottom) / 2] as const;
  const elements = [
    text(MARGIN, 34, shortened(title, WIDTH - 2 * MARGIN, LARGE), { size: LARGE, bold: true }),
    ...grid(x, y, box),
    text(middle[0], height - MARGIN, shortened(xLabel, box.right - box.left), { anchor: 'middle' }),
    text(MARGIN + NORMAL, middle[1], shortened(yLabel, box.bottom - box.top), { anchor: 'middle', turned: true }),
    ...shown.map((level) =>
      line(box.left, px(y.at(level.y)), box.right, px(y.at(level.y)), LEVEL, 'stroke-dasharray="3 3"'),
    ),
    ...series.flatMap((one, index) => curve(one, index, x, y, drawable)),
    ...legend(series, shown, box),
  ];
  return { height, elements };
}

interface Box {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

function plotBox(names: readonly string[], height: number): Box {
  const widest = Math.min(WIDEST_NAME, Math.max(...names.map((name) => textWidth(name))));
  const right = Math.floor(WIDTH - MARGIN - widest - 8 - LEGEND_LINE - 18);
  return { left: 96, right, top: TOP, bottom: height - BOTTOM };
}

function grid(x: Axis, y: Axis, { left, right, top, bottom }: Box): string[] {
  return [
    ...x.ticks.flatMap(({ value, label }) => [
      line(px(x.at(value)), top, px(x.at(value)), bottom, GRID),
      text(px(x.at(value)), bottom + 17, label, { size: SMALL, anchor: 'middle' }),
    ]),
    ...y.ticks.flatMap(({ value, label }) => [
      line(left, px(y.at(value)), right, px(y.at(value)), GRID),
      text(left - 8, px(y.at(value)) + belowMiddle(SMALL), label, { size: SMALL, anchor: 'end' }),
    ]),
    rect(left + 0.5, top + 0.5, right - left, bottom - top, 'none', FRAME),
  ];
}

function curve(
  { name, points }: Series,
  index: number,
  x: Axis,
  y: Axis,
  drawable: (point: Point) => boolean,
): string[] {
  let path = '';
  let pen = 'M';
  const places = points.map((point) => (drawable(point) ? ([px(x.at(point[0])), px(y.at(point[1]))] as const) : null));
  for (const place of places) {
    if (place !== null) path += `${pen}${place[0]} ${place[1]}`;
    pen = place === null ? 'M' : 'L';
  }
  const style = `stroke="${colourOf(index)}" stroke-width="2" stroke-linejoin="round" stroke-linecap="round"${dashOf(index)}`;
  const elements = [`<path aria-label="${escapeXml(name)}" d="${path}" fill="none" ${style}/>`];
  if (places.length > MOST_MARKERS) return elements;
  return elements.concat(places.filter((place) => place !== null).map(([cx, cy]) => marker(cx, cy, index)));
}

function legend(series: readonly Series[], levels: readonly { readonly name: string }[], box: Box): string[] {
  const x = box.right + 18;
  const lineY = (index: number): number => box.top + 10 + LEGEND_STEP * index;
  const label = (name: string, index: number): string =>
    text(x + LEGEND_LINE + 8, lineY(index) + belowMiddle(), shortened(name, WIDEST_NAME));
  return [
    ...series.flatMap(({ name, points }, index) => [
      line(x, lineY(index), x + LEGEND_LINE, lineY(index), colourOf(index), `stroke-width="2"${dashOf(index)}`),
      ...(points.length > MOST_MARKERS ? [] : [marker(x + LEGEND_LINE / 2, lineY(index), index)]),
      label(name, index),
    ]),
    ...levels.flatMap(({ name }, index) => [
      line(
        x,
        lineY(series.length + index),
        x + LEGEND_LINE,
        lineY(series.length + index),
        LEVEL,
        'stroke-dasharray="3 3"',
      ),
      label(name, series.length + index),
    ]),
  ];
}

function marker(cx: number, cy: number, index: number): string {
  return `<circle cx="${cx}" cy="${cy}" r="3.5" fill="${colourOf(index)}"/>`;
}

function colourOf(index: number): string {
  return COLOURS[index % COLOURS.length] as string;
}

/** Once all colours are used, the strokes differ. */
function dashOf(index: number): string {
  const dash = DASHES[Math.floor(index / COLOURS.length) % DASHES.length] as string;
  return dash === '' ? '' : ` stroke-dasharray="${dash}"`;
}

function px(value: number): number {
  return Math.round(value * 100) / 100;
}
