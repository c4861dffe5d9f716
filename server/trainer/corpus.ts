/**
 * Text on disk → documents: files and globs of plain text (one document a file), `.jsonl` (one `{"text": …}` a line), or `.gz` of either. Binary and
 * non-UTF-8 files are skipped and counted.
 */
import { readFileSync, statSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { globSync } from 'tinyglobby';

/** Documents that came from one --data argument: sampling treats each argument alike, whatever its size. */
export interface Source {
  readonly pattern: string;
  readonly documents: readonly string[];
  readonly files: number;
  /** Files left out because they are binary or not UTF-8. */
  readonly skipped: number;
}

/** Reads one file, or all that a glob matches. Throws one line when nothing matches or nothing readable is in it. */
export function readSource(pattern: string): Source {
  const files = expand(pattern);
  if (files.length === 0) throw new Error(`expected files at ${pattern}, but nothing matches; check --data`);
  const documents: string[] = [];
  let skipped = 0;
  for (const file of files) {
    const text = readText(file);
    if (text === undefined) skipped++;
    else documents.push(...split(text, file));
  }
  if (documents.length === 0) {
    throw new Error(`expected text in ${pattern}, but its ${files.length} file(s) are empty, binary or not UTF-8`);
  }
  return { pattern, documents, files: files.length, skipped };
}

function expand(pattern: string): string[] {
  const found = statSync(pattern, { throwIfNoEntry: false });
  if (found?.isFile()) return [pattern];
  if (found?.isDirectory()) return globSync(['**/*'], { cwd: pattern, absolute: true, onlyFiles: true }).sort();
  return globSync([pattern], { absolute: true, onlyFiles: true, dot: false }).sort();
}

function readText(file: string): string | undefined {
  let bytes: Uint8Array = readFileSync(file);
  if (file.endsWith('.gz')) bytes = gunzipSync(bytes);
  if (bytes.includes(0)) return undefined;
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function split(text: string, file: string): string[] {
  if (!/\.jsonl(\.gz)?$/.test(file)) return text.trim() === '' ? [] : [text];
  const documents: string[] = [];
  text.split('\n').forEach((line, index) => {
    if (line.trim() === '') return;
    const document = textField(line);
    if (document === undefined) throw new Error(`expected {"text": "…"} in line ${index + 1} of ${file}`);
    if (document !== '') documents.push(document);
  });
  return documents;
}

function textField(line: string): string | undefined {
  try {
    const value = (JSON.parse(line) as { text?: unknown }).text;
    return typeof value === 'string' ? value : undefined;
  } catch {
    return undefined;
  }
}
