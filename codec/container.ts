/** Everything of a container but its symbols: fixed header, tensor table, models, chunk index. No coding here. */
import type { ByteSource } from './byte-source.js';
import { checkIndexBytes, readChunkIndex, type ChunkIndex } from './chunk-index.js';
import type { Needs } from './context.js';
import { crc32c } from './crc32c.js';
import { CodecError } from './errors.js';
import { fixedHeaderBytes, headerBytes, MAX_HEADER_BYTES, readFixedHeader, type FixedHeader } from './fixed-header.js';
import { countChunks, planChunks, type ChunkPlan, type TensorEntry } from './layout.js';
import type { Digest, Mask, MaskSet } from './mask-set.js';
import { readModels, type Models } from './models.js';
import { groupsOf, readTensorTable, type NamedShape, type TensorTable } from './tensor-table.js';
import { readVersion1Table } from './version-1.js';

export interface ReadOptions {
  /** Refuse (`wrong-base`) a mask set for other weights, before its tables are read. */
  readonly expectBase?: Digest;
}

export interface Container {
  readonly header: FixedHeader;
  readonly needs: Needs;
  readonly models: Models;
  /** In the order of coding; undefined if they are the parent's, and it was not there. */
  readonly tensors: readonly TensorEntry[] | undefined;
  /** What each chunk holds; undefined where `tensors` is. */
  readonly plans: readonly ChunkPlan[] | undefined;
  readonly chunks: ChunkIndex;
  readonly fileBytes: number;
}

/**
 * Reads and checks everything before the payload, which is not touched. Allocates no more than a few times the bytes that the file
 * really has before its payload, and what `parent` names. Throws CodecError: every code of FORMAT.md §12 up to `payload-length`, in that
 * order, but for `parent-missing`: without a parent, what depends on it is left open.
 */
export function readContainer(source: ByteSource, options: ReadOptions = {}, parent?: MaskSet): Container {
  const fileBytes = source.byteLength;
  // A copy: the next read may reuse its bytes.
  const start = source.read(0, Math.min(MAX_HEADER_BYTES, fileBytes)).slice();
  const header = readFixedHeader(start, fileBytes, options.expectBase);
  const tables = readTables(source, header);
  const table = tables.subarray(0, header.tableBytes);
  const parsed = header.version === 1 ? readVersion1Table(table, header) : readTensorTable(table, header);
  const needs = needsOf(header, parsed);
  const modelEnd = header.tableBytes + header.modelBytes;
  const models = readModels(tables.subarray(header.tableBytes, modelEnd), new Set(parsed.coders), header.patterns);
  const tensors = bindTensors(header, parsed, needs, parent);
  const plans = tensors === undefined ? undefined : planned(tensors, header);
  checkIndexBytes(header);
  const chunks = readChunkIndex(tables.subarray(modelEnd), header, plans);
  return { header, needs, models, tensors, plans, chunks, fileBytes };
}

/** Masks by name, as inherited tensors are coded: names are ASCII, so that < on strings is byte order. */
export function sortedByName<T extends { readonly name: string }>(masks: readonly T[]): T[] {
  return [...masks].sort((a, b) => (a.name < b.name ? -1 : 1));
}

function readTables(source: ByteSource, header: FixedHeader): Uint8Array {
  const from = fixedHeaderBytes(header);
  const tables = source.read(from, headerBytes(header) - from).slice();
  if (crc32c(tables) !== header.tablesChecksum) {
    throw new CodecError(
      'table-checksum',
      `expected tables with the checksum ${header.tablesChecksum}, got ${crc32c(tables)}: the file is damaged, fetch it again`,
    );
  }
  return tables;
}

function needsOf(header: FixedHeader, { coders }: TensorTable): Needs {
  const needsParent = header.inherits || coders.some((coder) => coder.needsParent);
  if (needsParent && header.parent === undefined) {
    throw new CodecError(
      'reserved-bits',
      'expected the parent flag of a set that is coded against its parent, got none',
    );
  }
  return { parent: needsParent ? header.parent : undefined, weights: coders.some((coder) => coder.needsWeights) };
}

function bindTensors(
  header: FixedHeader,
  { coders, shapes, changes }: TensorTable,
  needs: Needs,
  parent: MaskSet | undefined,
): TensorEntry[] | undefined {
  if (needs.parent !== undefined && parent !== undefined) checkParent(header, parent);
  const known = shapes ?? (parent === undefined ? undefined : sortedByName(parent.masks));
  if (known === undefined) return undefined;
  const masks = new Map(parent?.masks.map((mask) => [mask.name, mask]));
  const tensors = known.map(({ name, rows, cols }, i): TensorEntry => {
    const coder = coders[i]!;
    if (coder.needsParent && parent !== undefined) checkParentMask({ name, rows, cols }, masks.get(name));
    return { name, rows, cols, groups: groupsOf(name, rows, cols, header.patterns), coder, changes: changes[i]! };
  });
  for (const tensor of tensors) checkChanges(tensor);
  return tensors;
}

function checkParent(header: FixedHeader, parent: MaskSet): void {
  const { n, m } = header.patterns;
  const groups = parent.masks.reduce((sum, { rows, cols }) => sum + rows * (cols / m), 0);
  const problem =
    parent.n !== n || parent.m !== m
      ? [`${n}:${m} masks`, `${parent.n}:${parent.m}`]
      : parent.base !== header.base
        ? [`the base ${header.base}`, parent.base]
        : header.inherits && (parent.masks.length !== header.tensorCount || groups !== header.groups)
          ? [`${header.tensorCount} tensors of ${header.groups} groups`, `${parent.masks.length} of ${groups}`]
          : undefined;
  if (problem !== undefined) throw parentMismatch(problem[0]!, problem[1]!);
}

function checkParentMask({ name, rows, cols }: NamedShape, mask: Mask | undefined): void {
  if (mask?.rows === rows && mask.cols === cols) return;
  throw parentMismatch(`${name} of ${rows} × ${cols}`, mask === undefined ? 'none' : `${mask.rows} × ${mask.cols}`);
}

function parentMismatch(expected: string, got: string): CodecError {
  return new CodecError('parent-mismatch', `expected a parent with ${expected}, got ${got}: this is not its parent`);
}

function checkChanges({ name, changes, groups }: TensorEntry): void {
  if (changes <= groups) return;
  throw new CodecError('patch-count', `expected at most ${groups} changed groups in ${name}, got ${changes}`);
}

function planned(tensors: readonly TensorEntry[], header: FixedHeader): ChunkPlan[] {
  const { chunkLog2, patchLog2, chunkCount, patterns } = header;
  const settings = { chunkLog2, patchLog2, patterns: patterns.count };
  const expected = countChunks(tensors, settings);
  if (expected !== chunkCount) {
    throw new CodecError('chunk-count', `expected ${expected} chunks for all tensors, got ${chunkCount}`);
  }
  return planChunks(tensors, settings);
}
