/** Tables as text. */
import { describe, type CellResult } from './cells.js';
import type { Table, Value } from './paper-tables.js';
import { mean, type SweepLine } from './sweep.js';

export interface PrintedValue {
  readonly column: string;
  readonly perplexity: number;
  readonly paper: string;
  readonly settings: string;
  /** Mean over the cells that learned a mask; absent when none did. */
  readonly changed?: number;
  readonly bitsPerParameter?: number;
}

export interface PrintedTable {
  readonly table: string;
  readonly title: string;
  readonly rows: readonly { readonly label: string; readonly values: readonly PrintedValue[] }[];
}

/** Puts results in their places. `resultOf`: of any cell of the table. */
export function filled(table: Table, resultOf: (cell: Value['parts'][number]['cell']) => CellResult): PrintedTable {
  const fill = ({ column, parts, paper }: Value): PrintedValue => {
    const results = parts.map(({ cell }) => resultOf(cell));
    const scores = results.map(({ perplexities }, i) => {
      const { domain } = parts[i] as Value['parts'][number];
      return domain === undefined ? mean(Object.values(perplexities)) : (perplexities[domain] as number);
    });
    const learned = results.filter(({ changed }) => changed !== undefined);
    const rate = {
      changed: mean(learned.map(({ changed }) => changed as number)),
      bitsPerParameter: mean(learned.map(({ bitsPerParameter }) => bitsPerParameter as number)),
    };
    const [first] = parts;
    const more = parts.length > 1 ? ` (and ${parts.length - 1} more domains)` : '';
    const settings = first ? `${describe(first.cell)}${more}` : '';
    return { column, perplexity: mean(scores), paper, settings, ...(learned.length > 0 ? rate : {}) };
  };
  const rows = table.rows.map(({ label, values }) => ({ label, values: values.map(fill) }));
  return { table: table.id, title: table.title, rows };
}

export function tableText({ table, title, rows }: PrintedTable): string {
  const columns = [...new Set(rows.flatMap(({ values }) => values.map(({ column }) => column)))];
  const header = ['', ...columns.flatMap((column) => [column, 'changed', 'bits/param', "(paper's)"])];
  const lines = rows.map(({ label, values }) => [
    label,
    ...columns.flatMap((column) => {
      const value = values.find((candidate) => candidate.column === column);
      return value ? [decimal(value.perplexity), ...rateText(value), value.paper] : ['-', '', '', ''];
    }),
  ]);
  const settings = rows.flatMap(({ label, values }) =>
    values.map(({ column, settings }) => `  ${label}, ${column}: ${settings}`),
  );
  const heading = /^\d/.test(table) ? `Table ${table} of the paper` : `Beyond the paper, ${table}`;
  return [`${heading}: ${title}`, ...aligned([header, ...lines]), ...settings, ''].join('\n');
}

export function sweepText(lines: readonly SweepLine[]): string {
  const header = [
    'method',
    'loss',
    'steps',
    'travel',
    'lr',
    'PPL',
    'least',
    'largest',
    'seeds',
    'changed',
    'bits/param',
  ];
  const sorted = [...lines].sort((a, b) => a.perplexity - b.perplexity);
  const rows = sorted.map((line) => [
    line.method,
    line.loss,
    String(line.steps),
    String(line.travel),
    line.learningRate.toPrecision(2),
    decimal(line.perplexity),
    decimal(line.least),
    decimal(line.largest),
    String(line.seeds),
    ...rateText(line),
  ]);
  const settings = sorted.map((line) => `  ${line.method} ${line.loss} ${line.steps} ${line.travel}: ${line.settings}`);
  return [
    'Sweep: general masks from one SparseGPT mask, best first',
    ...aligned([header, ...rows]),
    ...settings,
    '',
  ].join('\n');
}

function rateText({ changed, bitsPerParameter }: Pick<PrintedValue, 'changed' | 'bitsPerParameter'>): string[] {
  if (changed === undefined || bitsPerParameter === undefined) return ['', ''];
  return [`${(changed * 100).toFixed(2)}%`, bitsPerParameter.toFixed(4)];
}

/** Two decimals; large ones in scientific notation. */
export function decimal(value: number): string {
  return value < 1e4 ? value.toFixed(2) : value.toExponential(2);
}

/** First column to the left, the others to the right. */
function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] as readonly string[]).map((_, i) => Math.max(...rows.map((row) => (row[i] ?? '').length)));
  return rows.map((row) =>
    row
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i] as number) : cell.padStart(widths[i] as number)))
      .join('  ')
      .trimEnd(),
  );
}
