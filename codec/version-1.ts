/** The tensor table of version 1, which knows only `uniform-ac`: FORMAT.md §14. Read, never written. */
import { coderNamed } from './coder.js';
import { CodecError } from './errors.js';
import type { FixedHeader } from './fixed-header.js';
import {
  checkName,
  duplicateTensor,
  groupsOf,
  unknownCoder,
  type NamedShape,
  type TensorTable,
} from './tensor-table.js';

/** Bytes of an entry before its name. */
const ENTRY_BYTES = 16;
const LEAST_TABLE_BYTES = 17;

/**
 * Reads the table's bytes. Throws CodecError `length-limit`, `table-length`, `bad-name`, `duplicate-tensor`, `unknown-coder`, `coder-data`,
 * `bad-shape`, `chunk-count`.
 */
export function readVersion1Table(table: Uint8Array, header: FixedHeader): TensorTable {
  if (table.length < LEAST_TABLE_BYTES) {
    throw new CodecError('length-limit', `expected tableBytes from ${LEAST_TABLE_BYTES} on, got ${table.length}`);
  }
  const view = new DataView(table.buffer, table.byteOffset, table.length);
  const shapes: NamedShape[] = [];
  const names = new Set<string>();
  let at = 0;
  for (let i = 0; i < header.tensorCount; i++) {
    const end = entryEnd(view, at, i);
    const shape = readEntry(table, view, at, i);
    if (names.has(shape.name)) throw duplicateTensor(shape.name);
    names.add(shape.name);
    checkEntry(view, at, shape, header);
    shapes.push(shape);
    at = end;
  }
  if (at !== table.length) throw tableLength(`${header.tensorCount} entries end after ${at}`, table.length);
  const coder = coderNamed('uniform-ac');
  return { shapes, coders: shapes.map(() => coder), changes: shapes.map(() => 0) };
}

/** Where the entry at `at` ends. */
function entryEnd(view: DataView, at: number, entry: number): number {
  const rest = view.byteLength - at;
  const needed = rest < ENTRY_BYTES ? ENTRY_BYTES : ENTRY_BYTES + view.getUint8(at) + view.getUint16(at + 2, true);
  if (rest < needed) throw tableLength(`entry ${entry} needs ${needed} bytes from ${at}`, view.byteLength);
  return at + needed;
}

function readEntry(table: Uint8Array, view: DataView, at: number, entry: number): NamedShape {
  const name = String.fromCharCode(...table.subarray(at + ENTRY_BYTES, at + ENTRY_BYTES + table[at]!));
  checkName(name, entry);
  return { name, rows: view.getUint32(at + 4, true), cols: view.getUint32(at + 8, true) };
}

function checkEntry(view: DataView, at: number, { name, rows, cols }: NamedShape, header: FixedHeader): void {
  const id = view.getUint8(at + 1);
  if (id !== coderNamed('uniform-ac').id) throw unknownCoder(name, id);
  const coderData = view.getUint16(at + 2, true);
  if (coderData !== 0) {
    throw new CodecError('coder-data', `expected no coder data for ${name} in uniform-ac, got ${coderData} bytes`);
  }
  const groups = groupsOf(name, rows, cols, header.patterns);
  const chunks = view.getUint32(at + 12, true);
  const expected = Math.ceil(groups / 2 ** header.chunkLog2);
  if (chunks !== expected) {
    throw new CodecError('chunk-count', `expected ${expected} chunks for ${name}, got ${chunks}`);
  }
}

function tableLength(what: string, bytes: number): CodecError {
  return new CodecError(
    'table-length',
    `expected the tensor table to be filled exactly, got ${bytes} bytes of which ${what}`,
  );
}
