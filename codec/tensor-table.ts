/** The tensor table of version 2: coders, names and shapes, numbers of changes. FORMAT.md §4. */
import { coderById, knownCoders, type Coder } from './coder.js';
import { asciiBytes } from './digest.js';
import { CodecError } from './errors.js';
import type { FixedHeader } from './fixed-header.js';
import type { TensorEntry } from './layout.js';
import { checkLimit } from './limits.js';
import type { PatternTable } from './pattern.js';
import { SectionReader, type SectionWriter } from './varint.js';

const PRINTABLE_ASCII = /^[!-~]{1,255}$/;

/** A matrix without what codes it. */
export interface NamedShape {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
}

export interface TensorTable {
  /** (tensorCount) */
  readonly coders: readonly Coder[];
  /** (tensorCount), or undefined if they are the parent's. */
  readonly shapes: readonly NamedShape[] | undefined;
  /** Changed groups of each tensor, 0 where it is no patch. (tensorCount) */
  readonly changes: readonly number[];
}

/** Reads the table's bytes. Throws CodecError `table-length`, `bad-varint`, `unknown-coder`, `bad-name`, `duplicate-tensor`, `bad-shape`. */
export function readTensorTable(table: Uint8Array, header: FixedHeader): TensorTable {
  const reader = new SectionReader(table, 'tensor table', 'table-length');
  const coders = readCoders(reader, header.tensorCount);
  const shapes = header.inherits ? undefined : readShapes(reader, header);
  const changes = coders.map((coder) => (coder.form === 'patch' ? reader.varint() : 0));
  reader.end();
  if (shapes !== undefined) checkSum(shapes, header);
  return { coders, shapes, changes };
}

/** Writes the table of `tensors`, without names and shapes if the set inherits them. */
export function writeTensorTable(writer: SectionWriter, tensors: readonly TensorEntry[], inherits: boolean): void {
  for (let first = 0; first < tensors.length;) {
    const { coder } = tensors[first]!;
    let end = first + 1;
    while (tensors[end]?.coder === coder) end++;
    writer.u8(coder.id);
    writer.varint(end - first);
    first = end;
  }
  if (!inherits) tensors.forEach((tensor, i) => writeShape(writer, tensor, tensors[i - 1]?.name ?? ''));
  for (const { coder, changes } of tensors) if (coder.form === 'patch') writer.varint(changes);
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

export function unknownCoder(whose: string, id: number): CodecError {
  return new CodecError(
    'unknown-coder',
    `expected the coder of ${whose} to be one of ${knownCoders()}, got ${id}: upgrade maskserve, or encode the mask set again`,
  );
}

function readCoders(reader: SectionReader, tensorCount: number): Coder[] {
  const coders: Coder[] = [];
  while (coders.length < tensorCount) {
    const id = reader.u8();
    const coder = coderById(id);
    if (coder === undefined) throw unknownCoder(`tensor ${coders.length}`, id);
    const run = reader.varint();
    if (run === 0 || run > tensorCount - coders.length) {
      throw reader.error(`a run of 1 to ${tensorCount - coders.length} tensors`, `${run}`);
    }
    for (let i = 0; i < run; i++) coders.push(coder);
  }
  return coders;
}

function readShapes(reader: SectionReader, { tensorCount, patterns }: FixedHeader): NamedShape[] {
  const shapes: NamedShape[] = [];
  const names = new Set<string>();
  let before = '';
  for (let i = 0; i < tensorCount; i++) {
    const name = readName(reader, before, i);
    if (names.has(name)) throw duplicateTensor(name);
    names.add(name);
    const shape = { name, rows: reader.varint(), cols: reader.varint() };
    groupsOf(name, shape.rows, shape.cols, patterns);
    shapes.push(shape);
    before = name;
  }
  return shapes;
}

function readName(reader: SectionReader, before: string, entry: number): string {
  const [prefix, suffix, middle] = [reader.u8(), reader.u8(), reader.u8()];
  if (prefix + suffix > before.length) {
    throw new CodecError(
      'bad-name',
      `expected the name of tensor ${entry} to share at most the ${before.length} bytes of the name before, got ${prefix + suffix}`,
    );
  }
  const own = String.fromCharCode(...reader.take(middle));
  const name = before.slice(0, prefix) + own + before.slice(before.length - suffix);
  checkName(name, entry);
  return name;
}

function writeShape(writer: SectionWriter, { name, rows, cols }: NamedShape, before: string): void {
  const most = Math.min(name.length, before.length);
  let prefix = 0;
  while (prefix < most && name[prefix] === before[prefix]) prefix++;
  let suffix = 0;
  while (suffix < most - prefix && name.at(-1 - suffix) === before.at(-1 - suffix)) suffix++;
  const middle = asciiBytes(name.slice(prefix, name.length - suffix));
  writer.put([prefix, suffix, middle.length]);
  writer.put(middle);
  writer.varint(rows);
  writer.varint(cols);
}

function checkSum(shapes: readonly NamedShape[], { groups, patterns }: FixedHeader): void {
  const sum = shapes.reduce((total, { rows, cols }) => total + rows * (cols / patterns.m), 0);
  if (sum !== groups) {
    throw new CodecError('bad-shape', `expected tensors of ${groups} groups together, got ${sum}`);
  }
}
