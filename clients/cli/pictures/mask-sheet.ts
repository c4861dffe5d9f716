/** A mask set as an image: a contact sheet with a panel for each matrix, whose pixels are groups coloured by their pattern. */
import type { Digest } from '../../../codec/mask-set.js';
import { formatCount, shortDigest } from '../output.js';
import { type Colour, hex } from './colours.js';
import { patternColours, type PatternColours } from './pattern-colours.js';
import {
  LARGEST_SIDE,
  layOutSheet,
  MARGIN,
  type Panel,
  type Scale,
  shape,
  type SheetLayout,
  type SheetTensor,
} from './sheet-layout.js';
import { type Pixels, pixelsToPng, rect, svgDocument, svgToPixels } from './svg.js';
import { belowMiddle, LARGE, shortened, SMALL, text, textWidth } from './text.js';

const TITLE_Y = 32;
const FACTS_Y = 54;
const SCALE_Y = 72;
const LEGEND_Y = 94;
const SWATCH = 14;
const FRAME = '#999';

export interface Sheet {
  /** What the picture is of, e.g. the name of its file. */
  readonly title: string;
  readonly digest: Digest;
  readonly n: number;
  readonly m: number;
  readonly bitsPerParameter: number;
  readonly tensors: readonly SheetTensor[];
}

/**
 * Draws a sheet as PNG. `symbolsOf(i)` gives the symbols of tensor i (rows · cols/m), row by row; each is asked for once, so that
 * only one tensor of a large model is in memory. One pixel is one group, or, where the picture would be longer than `largestSide`,
 * the most frequent pattern of a block of groups; the picture says which.
 */
export async function drawSheet(
  sheet: Sheet,
  symbolsOf: (index: number) => Uint8Array,
  largestSide = LARGEST_SIDE,
): Promise<Buffer> {
  const layout = layOutSheet(sheet.tensors, sheet.m, largestSide);
  const colours = patternColours(sheet.n, sheet.m);
  const counts = colours.colours.map(() => 0);
  const panels = sheet.tensors.map(({ rows, cols }, index) => {
    const indices = symbolsOf(index).map((symbol) => colours.colourOfSymbol[symbol] as number);
    for (const colour of indices) counts[colour]! += 1;
    return mostFrequent(indices, rows, cols / sheet.m, layout.scale, counts.length);
  });
  const page = await svgToPixels(sheetSvg(sheet, layout, colours, counts));
  panels.forEach((panel, index) => paint(page, layout.panels[index] as Panel, panel, colours));
  return pixelsToPng(page);
}

/** (⌈rows / scale.rows⌉, ⌈groups / scale.groups⌉) colour indices: of each block the most frequent, the smallest among equals. */
export function mostFrequent(
  indices: Uint8Array,
  rows: number,
  groups: number,
  scale: Scale,
  colours: number,
): Uint8Array {
  if (scale.rows === 1 && scale.groups === 1) return indices;
  const width = Math.ceil(groups / scale.groups);
  const out = new Uint8Array(Math.ceil(rows / scale.rows) * width);
  const counts = new Uint32Array(width * colours); // of the blocks of one row
  for (let row = 0; row < rows; row++) {
    for (let group = 0; group < groups; group++) {
      counts[Math.floor(group / scale.groups) * colours + (indices[row * groups + group] as number)]! += 1;
    }
    if ((row + 1) % scale.rows !== 0 && row + 1 < rows) continue;
    const start = Math.floor(row / scale.rows) * width;
    for (let block = 0; block < width; block++) {
      const own = counts.subarray(block * colours, (block + 1) * colours);
      out[start + block] = own.indexOf(Math.max(...own));
    }
    counts.fill(0);
  }
  return out;
}

/** Title, legend, labels and frames: all but the pixels of the panels. `counts`: groups of each colour. */
export function sheetSvg(
  sheet: Sheet,
  layout: SheetLayout,
  colours: PatternColours,
  counts: readonly number[],
): string {
  const { width, height, panels, rowLabels, columnLabels, places } = layout;
  const title = shortened(sheet.title, width - 2 * MARGIN, LARGE);
  const elements = [
    text(MARGIN, TITLE_Y, title, { size: LARGE, bold: true }),
    text(MARGIN, FACTS_Y, facts(sheet)),
    text(MARGIN, SCALE_Y, scaleText(layout.scale, sheet.m)),
    ...legend(colours, counts),
  ];
  sheet.tensors.forEach((tensor, index) => {
    const { x, y, width: wide, height: high } = panels[index] as Panel;
    const { column } = places[index] as { column: number };
    elements.push(
      text(x, y - 20, columnLabels[column] as string, { size: SMALL, bold: true }),
      text(x, y - 6, shape(tensor), { size: SMALL }),
      rect(x - 0.5, y - 0.5, wide + 1, high + 1, 'none', FRAME),
    );
  });
  rowLabels.forEach((label, row) => {
    const panel = panels[places.findIndex((place) => place.row === row)] as Panel;
    elements.push(text(MARGIN, panel.y + 10, label, { bold: true }));
  });
  return svgDocument(width, height, `${sheet.title}: patterns of its groups`, elements);
}

function facts({ digest, n, m, bitsPerParameter, tensors }: Sheet): string {
  const parameters = tensors.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
  return [
    `digest ${shortDigest(digest)}`,
    `${n}:${m}`,
    `${formatCount(parameters)} parameters`,
    `${bitsPerParameter.toFixed(4)} bit per parameter`,
  ].join('  ·  ');
}

function scaleText({ rows, groups }: Scale, m: number): string {
  if (rows === 1 && groups === 1) return `1 pixel = 1 group: ${m} neighbouring weights of a row`;
  const block = `${counted(rows, 'row')} × ${counted(groups, 'group')}`;
  return `scaled down: 1 pixel = ${block}, coloured by the most frequent pattern`;
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

function legend({ colours, labels }: PatternColours, counts: readonly number[]): string[] {
  const all = counts.reduce((sum, count) => sum + count, 0);
  let x = MARGIN;
  return colours.flatMap((colour, index) => {
    const label = `${labels[index]}  ${((100 * (counts[index] as number)) / all).toFixed(1)}%`;
    const at = x;
    x += SWATCH + 6 + textWidth(label) + 22;
    return [
      rect(at, LEGEND_Y - SWATCH / 2, SWATCH, SWATCH, hex(colour)),
      text(at + SWATCH + 6, LEGEND_Y + belowMiddle(), label),
    ];
  });
}

function paint(page: Pixels, { x, y, width, height }: Panel, indices: Uint8Array, { colours }: PatternColours): void {
  for (let row = 0; row < height; row++) {
    let at = ((y + row) * page.width + x) * 3;
    for (const index of indices.subarray(row * width, (row + 1) * width)) {
      for (const channel of colours[index] as Colour) page.rgb[at++] = channel;
    }
  }
}
