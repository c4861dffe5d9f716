/** The table `curve` as a picture: what a mask gains on its domain, and costs elsewhere, for its bits. */
import { stackedCurvesSvg, type Curves, type Point, type Series } from '../../clients/cli/pictures/curves.js';
import type { Cell, CellResult } from './cells.js';
import type { Row, Table, Value } from './paper-tables.js';
import { mean } from './sweep.js';

type ResultOf = (cell: Cell) => CellResult;
type Part = Value['parts'][number];

/** Mean over the domains above, each domain below, as SVG; undefined where no mask changed, so that there are no bits to draw against. */
export function curvePicture({ title, rows }: Table, resultOf: ResultOf): string | undefined {
  const [dense, general, ...bounded] = rows as [Row, Row, ...Row[]];
  const levels = [
    { name: `general ${own(general, resultOf).toFixed(2)}`, y: own(general, resultOf) },
    { name: `dense ${own(dense, resultOf).toFixed(2)}`, y: own(dense, resultOf) },
  ];
  const axes = { xLabel: 'bits per parameter, given the general mask', logX: true } as const;
  const above: Curves = {
    title: 'Perplexity against bits of transferred masks: mean over their domains',
    ...axes,
    yLabel: 'perplexity',
    series: columnsOf(bounded).map((column) => curveOf(bounded, column, resultOf)),
    levels,
  };
  const below: Curves = {
    title: 'Each domain, against its perplexity under the general mask',
    ...axes,
    yLabel: 'perplexity / that of general',
    series: partsOf(general).map((part, index) => domainCurve(bounded, part, index, resultOf)),
    levels: [{ name: 'general', y: 1 }],
  };
  const panels = [above, below].filter(({ series }) => series.some(({ points }) => points.some(([x]) => x > 0)));
  return panels.length === 0 ? undefined : stackedCurvesSvg(title, panels);
}

function columnsOf(rows: readonly Row[]): string[] {
  return [...new Set(rows.flatMap(({ values }) => values.map(({ column }) => column)))];
}

/** The cells of the column about a mask's own domain. */
function partsOf({ values }: Row): readonly Part[] {
  return (values[0] as Value).parts;
}

/** Mean perplexity on the own domains. */
function own(row: Row, resultOf: ResultOf): number {
  return mean(partsOf(row).map((part) => perplexity(part, resultOf)));
}

function curveOf(rows: readonly Row[], column: string, resultOf: ResultOf): Series {
  const points = rows.map(({ values }): Point => {
    const { parts } = values.find((value) => value.column === column) as Value;
    return [mean(parts.map((part) => bits(part, resultOf))), mean(parts.map((part) => perplexity(part, resultOf)))];
  });
  return { name: column, points: byBits(points) };
}

function domainCurve(rows: readonly Row[], general: Part, index: number, resultOf: ResultOf): Series {
  const start = perplexity(general, resultOf);
  const points = rows.map((row): Point => {
    const part = partsOf(row)[index] as Part;
    return [bits(part, resultOf), perplexity(part, resultOf) / start];
  });
  return { name: general.domain ?? '', points: byBits(points) };
}

function perplexity({ cell, domain }: Part, resultOf: ResultOf): number {
  const { perplexities } = resultOf(cell);
  return domain === undefined ? mean(Object.values(perplexities)) : (perplexities[domain] as number);
}

function bits({ cell }: Part, resultOf: ResultOf): number {
  return resultOf(cell).bitsPerParameter ?? 0;
}

function byBits(points: readonly Point[]): Point[] {
  return [...points].sort(([a], [b]) => a - b);
}
