/** The size table as a picture: a line a set, a mark a coder, bits per parameter on a logarithmic axis. */
import { escapeXml, line, rect, svgDocument } from '../../clients/cli/pictures/svg.js';
import type { SetFigures } from './codec-sizes.js';

const [WIDTH, LEFT, RIGHT, TOP, ROW_HEIGHT] = [1180, 290, 60, 96, 30];
/** Bits per parameter at the left end of the axis, and at the right one. */
const [LEAST, MOST] = [0.0005, 1];
const TICKS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1];
/** log2(6) / 4: what the paper's coding takes, whatever the mask. */
const UNIFORM = 0.6462;
const INK = '#1f2933';
const FAINT = '#d9dee3';

interface Series {
  readonly name: string;
  /** Bytes of the file; undefined: no mark. */
  readonly bytes: (set: SetFigures) => number | undefined;
  readonly mark: (x: number, y: number) => string;
}

const SERIES: readonly Series[] = [
  {
    name: 'deflated bits (as MaskLLM publishes)',
    bytes: ({ rivals }) => rivals?.deflatedBits,
    mark: (x, y) => rect(x - 4, y - 4, 8, 8, '#fff', '#c2410c'),
  },
  {
    name: 'brotli 11',
    bytes: ({ rivals }) => rivals?.brotli11,
    mark: (x, y) => `<circle cx="${at(x)}" cy="${at(y)}" r="4.5" fill="#fff" stroke="#7c3aed" stroke-width="1.5"/>`,
  },
  {
    name: 'zstd -19',
    bytes: ({ rivals }) => rivals?.zstd19,
    mark: (x, y) => polygon(x, y, '#fff', '#b45309', [0, -6], [6, 4], [-6, 4]),
  },
  {
    name: 'zstd -19 --patch-from',
    bytes: ({ rivals }) => rivals?.zstdPatchFrom,
    mark: (x, y) => polygon(x, y, '#f59e0b', '#b45309', [0, -6], [6, 4], [-6, 4]),
  },
  {
    name: 'other coders of maskserve: weights, scaled-weights, parent',
    bytes: () => undefined,
    mark: otherCoder,
  },
  {
    name: 'maskserve, whole file',
    bytes: ({ fileBytes }) => fileBytes,
    mark: (x, y) => polygon(x, y, '#0f766e', '#0f766e', [0, -7], [7, 0], [0, 7], [-7, 0]),
  },
];
/** Coders of the format that are shown beside the best. */
const OTHERS = ['weights', 'scaled-weights', 'parent'] as const;

/** An SVG document. */
export function sizePicture(sets: readonly SetFigures[]): string {
  const shown = sets.filter(({ rivals }) => rivals !== undefined);
  const bottom = TOP + shown.length * ROW_HEIGHT;
  const elements = [
    text(16, 26, 'What a mask costs: bits per parameter, whole files', 'font-size="17" font-weight="bold"'),
    ...legend(),
    ...TICKS.flatMap((tick) => [
      line(xOf(tick), TOP - 6, xOf(tick), bottom, FAINT),
      text(xOf(tick), bottom + 18, String(tick), 'font-size="12" text-anchor="middle"'),
    ]),
    line(xOf(UNIFORM), TOP - 6, xOf(UNIFORM), bottom, '#c2410c', 'stroke-dasharray="4 3"'),
    text(xOf(UNIFORM), TOP - 10, `the paper: ${UNIFORM}`, 'font-size="12" text-anchor="middle" fill="#c2410c"'),
    text(
      (LEFT + WIDTH - RIGHT) / 2,
      bottom + 38,
      'bits per parameter (logarithmic)',
      'font-size="12" text-anchor="middle"',
    ),
    ...shown.flatMap((set, i) => setLine(set, TOP + (i + 0.5) * ROW_HEIGHT)),
  ];
  const title = `Bits per parameter of ${shown.length} mask sets in maskserve's coders and in general-purpose compressors`;
  return svgDocument(WIDTH, bottom + 52, title, [`<g font-family="sans-serif" fill="${INK}">`, ...elements, '</g>']);
}

function legend(): string[] {
  const places = [
    [0, 0],
    [260, 0],
    [360, 0],
    [450, 0],
    [0, 1],
    [450, 1],
  ] as const;
  return SERIES.flatMap(({ name, mark }, i) => {
    const [right, down] = places[i] ?? [0, 0];
    const [x, y] = [26 + right, 46 + 20 * down];
    return [mark(x, y), text(x + 12, y + 4, name, 'font-size="12"')];
  });
}

function setLine(set: SetFigures, y: number): string[] {
  const { name, parameters, bitsPerParameter, payloadBytes, coders } = set;
  const place = (bytes: number): number => xOf((8 * bytes) / parameters);
  const others = OTHERS.flatMap((coder) => coders[coder]?.file ?? []).filter((bytes) => bytes > set.fileBytes);
  const marks = SERIES.flatMap((series) => {
    const bytes = series.bytes(set);
    return bytes === undefined ? [] : [series.mark(place(bytes), y)];
  });
  const exact = payloadBytes === 0 ? ' (a flag)' : '';
  return [
    text(LEFT - 16, y + 4, name, 'font-size="13" text-anchor="end"'),
    line(xOf(LEAST), y, xOf(MOST), y, FAINT),
    ...others.map((bytes) => otherCoder(place(bytes), y)),
    ...marks,
    text(
      place(set.fileBytes),
      y - 9,
      `${significant(bitsPerParameter)}${exact}`,
      'font-size="11" text-anchor="middle" fill="#0f766e"',
    ),
  ];
}

function otherCoder(x: number, y: number): string {
  return `<circle cx="${at(x)}" cy="${at(y)}" r="3.5" fill="#5eead4" stroke="#0f766e"/>`;
}

function polygon(
  x: number,
  y: number,
  fill: string,
  stroke: string,
  ...corners: readonly (readonly [number, number])[]
): string {
  const points = corners.map(([dx, dy]) => `${at(x + dx)},${at(y + dy)}`).join(' ');
  return `<polygon points="${points}" fill="${fill}" stroke="${stroke}" stroke-width="1.5"/>`;
}

function text(x: number, y: number, content: string, attributes: string): string {
  return `<text x="${at(x)}" y="${at(y)}" ${attributes}>${escapeXml(content)}</text>`;
}

function xOf(bits: number): number {
  const share = Math.log(Math.max(bits, LEAST) / LEAST) / Math.log(MOST / LEAST);
  return at(LEFT + share * (WIDTH - LEFT - RIGHT));
}

function at(place: number): number {
  return Math.round(10 * place) / 10;
}

function significant(bits: number): string {
  return bits >= 0.1 ? bits.toFixed(3) : String(Number(bits.toPrecision(2)));
}
