/** All tables as one, as README.md shows it. */
import { decimal, type PrintedTable } from './print.js';

const HEAD = ['table', '', 'perplexity', 'groups changed', 'bit per parameter', "the paper's perplexity"];

/** A row of a table with several columns of perplexities becomes one for each of them. */
export function tablesMarkdown(tables: readonly PrintedTable[]): string {
  const rows = tables.flatMap(({ table, title, rows }) =>
    rows.flatMap(({ label, values }) =>
      values.map(({ column, perplexity, changed, bitsPerParameter, paper }) => ({
        name: `${table}: ${title}`,
        cells: [
          values.length > 1 || column !== 'PPL' ? `${label}, ${column}` : label,
          decimal(perplexity),
          changed === undefined ? '' : `${(100 * changed).toFixed(2)}%`,
          bitsPerParameter === undefined ? '' : bitsPerParameter.toFixed(4),
          paper,
        ],
      })),
    ),
  );
  const named = rows.map(({ name, cells }, i) => [name === rows[i - 1]?.name ? '' : name, ...cells]);
  const rule = HEAD.map((_, i) => (i < 2 ? '---' : '---:'));
  return [HEAD, rule, ...named].map((cells) => `| ${cells.join(' | ')} |\n`).join('');
}
