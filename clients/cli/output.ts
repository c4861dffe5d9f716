/** What goes to stdout: one JSON value for machines, tables and lines for people. */

/** One JSON value on a line of its own. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

export function printLine(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Columns padded to their widest cell, two spaces apart; `right` names the columns of numbers. */
export function printTable(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  right: readonly string[] = [],
): void {
  const widths = header.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => (row[column] as string).length)),
  );
  for (const row of [header, ...rows]) {
    const cells = row.map((cell, column) => {
      const width = widths[column] as number;
      return right.includes(header[column] as string) ? cell.padStart(width) : cell.padEnd(width);
    });
    printLine(cells.join('  ').trimEnd());
  }
}

/** `name  value` lines, values aligned. */
export function printFields(fields: readonly (readonly [name: string, value: string])[]): void {
  const width = Math.max(...fields.map(([name]) => name.length));
  for (const [name, value] of fields) printLine(`${name.padEnd(width)}  ${value}`);
}

/** 1234567 → `1,234,567`. */
export function formatCount(count: number): string {
  return count.toLocaleString('en-US');
}

/** As much of a digest as tells versions apart; every option that takes a digest takes this much of it. */
export function shortDigest(digest: string): string {
  return digest.slice(0, 12);
}

/** `2026-11-24T12:03:05.123Z` → `2026-11-24 12:03:05Z`. */
export function formatTime(iso: string): string {
  return `${iso.slice(0, 19).replace('T', ' ')}Z`;
}
