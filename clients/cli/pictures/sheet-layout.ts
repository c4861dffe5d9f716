/** Where the panels of a contact sheet go: rows are layers, columns are kinds of matrices. */
import { formatCount } from '../output.js';
import { layerGrid } from './layer-grid.js';
import { NORMAL, SMALL, textWidth } from './text.js';

export const MARGIN = 16;
/** The longest side of a picture that people can still open anywhere, in pixels. */
export const LARGEST_SIDE = 8000;

const HEADER_HEIGHT = 118;
const LABEL_HEIGHT = 32; // two lines above a panel
const GAP = 14; // between panels
const LEAST_WIDTH = 760; // for the legend

export interface SheetTensor {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
}

/** How many groups a pixel stands for. */
export interface Scale {
  readonly rows: number;
  readonly groups: number;
}

export interface Panel {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export interface SheetLayout {
  readonly width: number;
  readonly height: number;
  readonly scale: Scale;
  /** Of each tensor, in order. */
  readonly panels: readonly Panel[];
  readonly rowLabels: readonly string[];
  readonly columnLabels: readonly string[];
  /** Of each tensor, in order. */
  readonly places: readonly { readonly row: number; readonly column: number }[];
}

/** Where everything goes. Throws if even with one pixel a matrix the picture would be too long. */
export function layOutSheet(tensors: readonly SheetTensor[], m: number, largestSide = LARGEST_SIDE): SheetLayout {
  const most = Math.max(...tensors.map(({ rows, cols }) => Math.max(rows, cols)));
  for (let rows = 1; ; rows++) {
    // A group is m weights wide and one high: rows are the first to share a pixel, which brings a panel nearer to the matrix's shape.
    const layout = layOutAt(tensors, m, { rows, groups: Math.max(1, Math.round(rows / m)) });
    if (layout.width <= largestSide && layout.height <= largestSide) return layout;
    if (rows >= most) throw new Error(`${formatCount(tensors.length)} matrices do not fit into one picture`);
  }
}

function layOutAt(tensors: readonly SheetTensor[], m: number, scale: Scale): SheetLayout {
  const { rowLabels, columnLabels, places } = layerGrid(tensors.map(({ name }) => name));
  const heights = rowLabels.map(() => 0);
  const widths = columnLabels.map((label) => textWidth(label, SMALL));
  const sizes = tensors.map(({ rows, cols }, index) => {
    const { row, column } = places[index] as { row: number; column: number };
    const size = { width: Math.ceil(cols / m / scale.groups), height: Math.ceil(rows / scale.rows) };
    heights[row] = Math.max(heights[row] as number, size.height);
    widths[column] = Math.max(widths[column] as number, size.width, textWidth(shape({ rows, cols }), SMALL));
    return size;
  });
  const gutter = Math.max(...rowLabels.map((label) => textWidth(label, NORMAL)));
  const xs = starts(widths, Math.ceil(MARGIN + gutter + GAP));
  const ys = starts(heights, HEADER_HEIGHT, LABEL_HEIGHT);
  return {
    width: Math.max(LEAST_WIDTH, (xs.at(-1) as number) + MARGIN - GAP),
    height: (ys.at(-1) as number) + MARGIN - GAP,
    scale,
    panels: sizes.map((size, index) => {
      const { row, column } = places[index] as { row: number; column: number };
      return { ...size, x: xs[column] as number, y: (ys[row] as number) + LABEL_HEIGHT };
    }),
    rowLabels,
    columnLabels,
    places,
  };
}

/** Start of each, and the end of all. */
function starts(lengths: readonly number[], first: number, extra = 0): number[] {
  const out = [first];
  for (const length of lengths) out.push((out.at(-1) as number) + Math.ceil(length) + extra + GAP);
  return out;
}

/** `256 × 704`: rows and columns of weights. */
export function shape({ rows, cols }: { readonly rows: number; readonly cols: number }): string {
  return `${rows} × ${cols}`;
}
