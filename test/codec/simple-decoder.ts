/**
 * A second decoder, written from codec/FORMAT.md alone and as plainly as it allows: a symbol or a bit at a time, sharing no
 * code with codec/. For valid containers only; it checks little and allocates freely.
 */
import { decodeArithmetic } from './simple-arithmetic.js';
import { decodeDense, decodePatches, readScales } from './simple-chunks.js';
import { groupModel, patternsOf, type SimpleSources } from './simple-coders.js';
import type { SimpleContainer, SimpleContext, SimpleTensor } from './simple-container.js';
import { chunkReader, Cursor, readEntries, readTables } from './simple-tables.js';
import { decodeVersion1 } from './simple-version-1.js';

export function simpleDecode(file: Uint8Array, context: SimpleContext = {}): SimpleContainer {
  const bytes = Buffer.from(file);
  return bytes.readUInt16LE(8) === 1 ? decodeVersion1(bytes) : decodeVersion2(bytes, context);
}

/** FORMAT.md §3 to §7. */
function decodeVersion2(bytes: Buffer, context: SimpleContext): SimpleContainer {
  const [n, m, chunkLog2, patchLog2] = [...bytes.subarray(12, 16)] as [number, number, number, number];
  const [tensorCount, tableBytes, modelBytes, indexBytes, chunkCount] = [16, 20, 24, 28, 32].map((at) =>
    bytes.readUInt32LE(at),
  ) as [number, number, number, number, number];
  const [models, index, payload] = [
    160 + tableBytes,
    160 + tableBytes + modelBytes,
    160 + tableBytes + modelBytes + indexBytes,
  ];
  const inherited = bytes[10]! & 2 ? byName(context.parent!.tensors) : undefined;
  const entries = readEntries(new Cursor(bytes, 160), tensorCount, m, inherited);
  const tables = readTables(new Cursor(bytes, models), entries, patternsOf(n, m).length);
  const nextChunk = chunkReader(new Cursor(bytes, index), bytes, payload);
  const tensors = entries.map(({ name, rows, cols, groups, coder }) => ({
    name,
    rows,
    cols,
    symbols: coder >= 8 && coder <= 9 ? [...parentOf(context, name)!.symbols] : new Array<number>(groups).fill(-1),
  }));
  const sources = entries.map(({ name }): SimpleSources => {
    const [parent, weights] = [parentOf(context, name)?.symbols, context.weights?.(name)];
    return { n, m, ...(parent === undefined ? {} : { parent }), ...(weights === undefined ? {} : { weights }) };
  });
  readScales(entries, tables, sources, nextChunk);
  decodeDense(entries, tables, sources, tensors, chunkLog2, nextChunk);
  decodePatches(entries, tables, sources, tensors, patchLog2, nextChunk);
  entries.forEach(({ coder, groups }, t) => {
    for (let first = 0; coder === 1 && first < groups; first += 2 ** chunkLog2) {
      const count = Math.min(2 ** chunkLog2, groups - first);
      decodeArithmetic(nextChunk(), patternsOf(n, m).length, count).forEach(
        (s, i) => (tensors[t]!.symbols[first + i] = s),
      );
    }
    if (coder !== 10) return;
    for (let group = 0; group < groups; group++)
      tensors[t]!.symbols[group] = groupModel(10, group, sources[t]!).symbolOf(0);
  });
  if (nextChunk.read !== chunkCount) throw new Error(`read ${nextChunk.read} of ${chunkCount} chunks`);
  const digest = (at: number): string => bytes.toString('hex', at, at + 32);
  const parent = bytes[10]! & 1 ? digest(120) : undefined;
  // A set that inherits is shown in its parent's order.
  const shown =
    inherited === undefined
      ? tensors
      : context.parent!.tensors.map(({ name }) => tensors.find((one) => one.name === name)!);
  return { n, m, base: digest(56), content: digest(88), parent, tensors: shown };
}

function parentOf({ parent }: SimpleContext, name: string): SimpleTensor | undefined {
  return parent?.tensors.find((tensor) => tensor.name === name);
}

function byName(tensors: readonly SimpleTensor[]): SimpleTensor[] {
  return [...tensors].sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)));
}
