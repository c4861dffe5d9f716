/** A table of shares as a picture: a cell for each, coloured by its value, with the value as text (MaskLLM, Figure 8). */
import { type Colour, heatColour, hex, inkOn } from './colours.js';
import { line, rect, svgDocument } from './svg.js';
import { belowMiddle, LARGE, shortened, SMALL, text, textWidth } from './text.js';

const MARGIN = 16;
const CELL_HEIGHT = 28;
const LEAST_CELL_WIDTH = 72;
const WIDEST_WORDS = 720; // of the title and the notes
const NOTE_HEIGHT = 18;
const BAR_WIDTH = 16;
const BAR_STEPS = 64;
const LEAST_BAR_HEIGHT = 140;
const EMPTY: Colour = [232, 232, 232];
const FRAME = '#999';

export interface HeatMap {
  readonly title: string;
  /** Lines below the title. */
  readonly notes: readonly string[];
  /** What a value is, beside the colour bar. */
  readonly quantity: string;
  readonly rowLabels: readonly string[];
  readonly columnLabels: readonly string[];
  /** By row and column, from 0 to 1; undefined: there is no such cell. */
  readonly shares: readonly (readonly (number | undefined)[])[];
}

/** Where the cells are, in pixels. */
export interface HeatLayout {
  readonly width: number;
  readonly height: number;
  readonly left: number;
  readonly top: number;
  readonly cellWidth: number;
  readonly cellHeight: number;
}

export function layOutHeatMap({ title, notes, rowLabels, columnLabels, quantity }: HeatMap): HeatLayout {
  const left = Math.ceil(MARGIN + Math.max(...rowLabels.map((label) => textWidth(label))) + 12);
  const top = 44 + NOTE_HEIGHT * notes.length + 34;
  const cellWidth = Math.max(LEAST_CELL_WIDTH, ...columnLabels.map((label) => Math.ceil(textWidth(label)) + 12));
  const right = left + cellWidth * columnLabels.length + 24 + BAR_WIDTH + 8 + textWidth('100.00%') + 22;
  const words = Math.max(textWidth(title, LARGE), ...notes.map((note) => textWidth(note)));
  const high = Math.max(CELL_HEIGHT * rowLabels.length, LEAST_BAR_HEIGHT, textWidth(quantity, SMALL));
  return {
    width: Math.ceil(Math.max(right, Math.min(words, WIDEST_WORDS)) + MARGIN),
    height: Math.ceil(top + high + MARGIN),
    left,
    top,
    cellWidth,
    cellHeight: CELL_HEIGHT,
  };
}

/** The SVG of a heat map. The colours run from 0 to the largest share, rounded up; the bar beside the cells says to what. */
export function heatMapSvg(map: HeatMap): string {
  const layout = layOutHeatMap(map);
  const { width, height, left, top, cellWidth, cellHeight } = layout;
  const most = roundedUp(Math.max(0, ...map.shares.flat().filter((share) => share !== undefined)));
  const inside = width - 2 * MARGIN;
  const elements = [
    text(MARGIN, 32, shortened(map.title, inside, LARGE), { size: LARGE, bold: true }),
    ...map.notes.map((note, index) => text(MARGIN, 56 + NOTE_HEIGHT * index, shortened(note, inside))),
    ...map.columnLabels.map((label, column) =>
      text(left + cellWidth * (column + 0.5), top - 10, label, { anchor: 'middle', bold: true }),
    ),
    ...map.rowLabels.map((label, row) =>
      text(left - 12, top + cellHeight * (row + 0.5) + belowMiddle(), label, { anchor: 'end', bold: true }),
    ),
    ...map.shares.flatMap((row, rowIndex) =>
      row.flatMap((share, column) => cell(left + cellWidth * column, top + cellHeight * rowIndex, layout, share, most)),
    ),
    ...colourBar(map, layout, most),
  ];
  return svgDocument(width, height, map.title, elements);
}

/** `1.31%`; what is not nothing is not written as if it were. */
export function percent(share: number): string {
  if (share === 0) return '0%';
  if (share < 0.00005) return '<0.01%';
  return `${(100 * share).toFixed(share < 0.1 ? 2 : 1)}%`;
}

function cell(x: number, y: number, layout: HeatLayout, share: number | undefined, most: number): string[] {
  const { cellWidth, cellHeight } = layout;
  const colour = share === undefined ? EMPTY : heatColour(share / most);
  return [
    rect(x, y, cellWidth - 1, cellHeight - 1, hex(colour)),
    text(x + cellWidth / 2, y + cellHeight / 2 + belowMiddle(SMALL), share === undefined ? '–' : percent(share), {
      size: SMALL,
      anchor: 'middle',
      colour: inkOn(colour),
    }),
  ];
}

function colourBar({ columnLabels, rowLabels, quantity }: HeatMap, layout: HeatLayout, most: number): string[] {
  const { left, top, cellWidth, cellHeight } = layout;
  const x = left + cellWidth * columnLabels.length + 24;
  const high = Math.max(cellHeight * rowLabels.length - 1, LEAST_BAR_HEIGHT);
  const step = high / BAR_STEPS;
  const elements = Array.from({ length: BAR_STEPS }, (_, index) =>
    // A step is drawn down to the end of the bar, and the next one over it: no gaps by rounding.
    rect(x, top + step * index, BAR_WIDTH, high - step * index, hex(heatColour(1 - (index + 0.5) / BAR_STEPS))),
  );
  elements.push(rect(x - 0.5, top - 0.5, BAR_WIDTH + 1, high + 1, 'none', FRAME));
  for (const share of [0, 0.5, 1]) {
    const y = Math.round(top + high * (1 - share)) + (share === 1 ? 0.5 : -0.5);
    elements.push(
      line(x + BAR_WIDTH, y, x + BAR_WIDTH + 4, y, FRAME),
      text(x + BAR_WIDTH + 8, y + belowMiddle(SMALL), percent(share * most), { size: SMALL }),
    );
  }
  const middle = top + Math.max(high, textWidth(quantity, SMALL)) / 2;
  const beside = x + BAR_WIDTH + 8 + textWidth('100.00%', SMALL) + 16;
  elements.push(text(beside, middle, quantity, { size: SMALL, anchor: 'middle', turned: true }));
  return elements;
}

/** The next of 1, 2, 3, 4, 5, 6, 8, 10 times a power of ten; 1% for nothing at all. */
function roundedUp(share: number): number {
  if (share === 0) return 0.01;
  const power = 10 ** Math.floor(Math.log10(share));
  const factor = [1, 2, 3, 4, 5, 6, 8, 10].find((candidate) => share <= candidate * power * (1 + 1e-9)) ?? 10;
  return Math.min(1, factor * power);
}
