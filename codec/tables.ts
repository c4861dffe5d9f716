/** The tensor table and the chunk index of a container: FORMAT.md §4 and §5. */
import { coderById, knownCoders, type Coder } from './coder.js';
import { asciiBytes } from './digest.js';
import { CodecError } from './errors.js';
import { CHUNK_ENTRY_BYTES, type FixedHeader } from './fixed-header.js';
import { checkLimit } from './limits.js';
import type { PatternTable } from './pattern.js';

/** Bytes of an entry of the tensor table before its name. */
const ENTRY_BYTES = 16;
const PRINTABLE_ASCII = /^[!-~]{1,255}$/;

/** One matrix, as the tensor table describes it. */
export interface TensorEntry {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  /** rows · cols / m */
  readonly groups: number;
  readonly coder: Coder;
  readonly firstChunk: number;
  readonly chunks: number;
}

export interface ChunkIndex {
  /** Where chunk i starts in the file; one more entry for the end of the payload. (chunkCount + 1) */
  readonly offsets: Float64Array;
  /** (chunkCount) */
  readonly checksums: Uint32Array;
}

/** Symbols of chunk `i` (from 0) of a tensor. */
export function symbolsOfChunk(tensor: TensorEntry, i: number, chunkLog2: number): number {
  return Math.min(2 ** chunkLog2, tensor.groups - i * 2 ** chunkLog2);
}

/** Bytes of a tensor's entry. */
export function entryBytes(name: string, coder: Coder): number {
  return ENTRY_BYTES + name.length + coder.coderDataBytes;
}

/**
 * Reads the tensor table: `table` is its tableBytes bytes. Throws CodecError `table-length`, `bad-name`, `duplicate-tensor`,
 * `unknown-coder`, `coder-data`, `bad-shape`, `chunk-count`.
 */
export function readTensorTable(table: Uint8Array, header: FixedHeader): TensorEntry[] {
  const view = new DataView(table.buffer, table.byteOffset, table.length);
  const tensors: TensorEntry[] = [];
  const names = new Set<string>();
  let at = 0;
  let firstChunk = 0;
  for (let i = 0; i < header.tensorCount; i++) {
    const end = entryEnd(view, at, i);
    const name = readName(table, at, i);
    if (names.has(name)) throw duplicateTensor(name);
    names.add(name);
    const coder = readCoder(view, at, name);
    const rows = view.getUint32(at + 4, true);
    const cols = view.getUint32(at + 8, true);
    const groups = groupsOf(name, rows, cols, header.patterns);
    const chunks = view.getUint32(at + 12, true);
    checkChunkCount(name, chunks, coder.chunkCount(groups, 2 ** header.chunkLog2));
    tensors.push({ name, rows, cols, groups, coder, firstChunk, chunks });
    firstChunk += chunks;
    at = end;
  }
  if (at !== table.length) throw tableLength(`${header.tensorCount} entries end after ${at}`, table.length);
  checkChunkCount('all tensors', header.chunkCount, firstChunk);
  return tensors;
}

/** Writes the entry of one tensor at `at`. */
export function writeTensorEntry(out: Uint8Array, at: number, tensor: TensorEntry): void {
  const view = new DataView(out.buffer, out.byteOffset);
  view.setUint8(at, tensor.name.length);
  view.setUint8(at + 1, tensor.coder.id);
  view.setUint16(at + 2, tensor.coder.coderDataBytes, true);
  view.setUint32(at + 4, tensor.rows, true);
  view.setUint32(at + 8, tensor.cols, true);
  view.setUint32(at + 12, tensor.chunks, true);
  out.set(asciiBytes(tensor.name), at + ENTRY_BYTES);
}

/**
 * Reads the chunk index: `index` is its 8 · chunkCount bytes, the payload starts at `payloadOffset`. Each length is checked against what its
 * coder needs for its symbols, so that afterwards no symbol can be announced that is not paid for in bytes.
 * Throws CodecError `chunk-length`, `payload-length`.
 */
export function readChunkIndex(
  index: Uint8Array,
  header: FixedHeader,
  tensors: readonly TensorEntry[],
  payloadOffset: number,
): ChunkIndex {
  const view = new DataView(index.buffer, index.byteOffset, index.length);
  const offsets = new Float64Array(header.chunkCount + 1);
  const checksums = new Uint32Array(header.chunkCount);
  let offset = payloadOffset;
  for (const tensor of tensors) {
    for (let i = 0; i < tensor.chunks; i++) {
      const chunk = tensor.firstChunk + i;
      const bytes = view.getUint32(CHUNK_ENTRY_BYTES * chunk, true);
      checkChunkBytes(tensor, i, bytes, header);
      offsets[chunk] = offset;
      checksums[chunk] = view.getUint32(CHUNK_ENTRY_BYTES * chunk + 4, true);
      offset += bytes;
    }
  }
  offsets[header.chunkCount] = offset;
  if (offset - payloadOffset !== header.payloadBytes) {
    throw new CodecError(
      'payload-length',
      `expected chunks of ${header.payloadBytes} bytes together, got ${offset - payloadOffset}`,
    );
  }
  return { offsets, checksums };
}

/** Writes entry `chunk` of the chunk index that starts at `at`. */
export function writeChunkEntry(out: Uint8Array, at: number, chunk: number, bytes: number, checksum: number): void {
  const view = new DataView(out.buffer, out.byteOffset);
  view.setUint32(at + CHUNK_ENTRY_BYTES * chunk, bytes, true);
  view.setUint32(at + CHUNK_ENTRY_BYTES * chunk + 4, checksum, true);
}

/** Throws CodecError `bad-name` unless the name is 1 to 255 printable ASCII characters. */
export function checkName(name: string, entry: number): void {
  if (PRINTABLE_ASCII.test(name)) return;
  throw new CodecError(
    'bad-name',
    `expected the name of tensor ${entry} to be 1 to 255 printable ASCII characters, got ${JSON.stringify(name.slice(0, 80))}`,
  );
}

/** Groups of a matrix. Throws CodecError `bad-shape`. */
export function groupsOf(name: string, rows: number, cols: number, patterns: PatternTable): number {
  checkLimit('rows', rows, 'bad-shape', `rows of ${name}`);
  checkLimit('cols', cols, 'bad-shape', `cols of ${name}`);
  if (cols % patterns.m !== 0) {
    throw new CodecError('bad-shape', `expected cols of ${name} to be a multiple of ${patterns.m}, got ${cols}`);
  }
  const groups = rows * (cols / patterns.m); // < 2^48, exact
  checkLimit('groups', groups, 'bad-shape', `groups of ${name} (${rows} × ${cols})`);
  return groups;
}

export function duplicateTensor(name: string): CodecError {
  return new CodecError('duplicate-tensor', `expected every tensor once, got ${name} twice`);
}

/** Where the entry at `at` ends. */
function entryEnd(view: DataView, at: number, entry: number): number {
  const rest = view.byteLength - at;
  const needed = rest < ENTRY_BYTES ? ENTRY_BYTES : ENTRY_BYTES + view.getUint8(at) + view.getUint16(at + 2, true);
  if (rest < needed) throw tableLength(`entry ${entry} needs ${needed} bytes from ${at}`, view.byteLength);
  return at + needed;
}

function readName(table: Uint8Array, at: number, entry: number): string {
  const name = String.fromCharCode(...table.subarray(at + ENTRY_BYTES, at + ENTRY_BYTES + table[at]!));
  checkName(name, entry);
  return name;
}

function readCoder(view: DataView, at: number, name: string): Coder {
  const id = view.getUint8(at + 1);
  const coder = coderById(id);
  if (coder === undefined) {
    throw new CodecError(
      'unknown-coder',
      `expected the coder of ${name} to be one of ${knownCoders()}, got ${id}: upgrade maskserve, or encode the mask set again`,
    );
  }
  const bytes = view.getUint16(at + 2, true);
  if (bytes !== coder.coderDataBytes) {
    throw new CodecError(
      'coder-data',
      `expected ${coder.coderDataBytes} bytes of coder data for ${name} in ${coder.name}, got ${bytes}`,
    );
  }
  return coder;
}

function checkChunkCount(whose: string, chunks: number, needed: number): void {
  if (chunks !== needed) {
    throw new CodecError('chunk-count', `expected ${needed} chunks for ${whose}, got ${chunks}`);
  }
}

function checkChunkBytes(tensor: TensorEntry, i: number, bytes: number, header: FixedHeader): void {
  const symbols = symbolsOfChunk(tensor, i, header.chunkLog2);
  const least = tensor.coder.minBytes(symbols, header.patterns.count);
  const most = tensor.coder.maxBytes(symbols, header.patterns.count);
  if (bytes < least || bytes > most) {
    throw new CodecError(
      'chunk-length',
      `expected ${least} to ${most} bytes for the ${symbols} symbols of chunk ${i} of ${tensor.name}, got ${bytes}`,
    );
  }
}

function tableLength(what: string, bytes: number): CodecError {
  return new CodecError(
    'table-length',
    `expected the tensor table to be filled exactly, got ${bytes} bytes of which ${what}`,
  );
}
