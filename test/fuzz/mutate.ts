/** Valid containers and what can happen to them: damage without knowledge, and lies by a writer that knows the format. */
import { encodeMaskSet } from '../../codec/encode.js';
import {
  join,
  seal,
  sealChunks,
  setIndex,
  setPayload,
  setU32,
  takeApart,
  u32,
  type ContainerParts,
} from '../codec/container-parts.js';
import { randomIntegers, randomSet } from '../codec/random-sets.js';
import { simpleContentDigest, simpleDecode } from '../codec/simple-decoder.js';
import type { FuzzInput } from './target.js';

type Random = (below: number) => number;
type Mutation = (bytes: Uint8Array, random: Random, corpus: readonly Uint8Array[]) => Uint8Array;

/** Small, so that 200,000 take minutes; all kinds of sections, n:m, last chunks and numbers of tensors. */
export function makeCorpus(): Uint8Array[] {
  const parent = 'fa'.repeat(32);
  const layers = { 'q.weight': [16, 48], 'k.weight': [4, 48], 'up.weight': [8, 24] } as const;
  return [
    encodeMaskSet(randomSet(1, [2, 4], { w: [1, 4] })),
    encodeMaskSet(randomSet(2, [2, 4], layers)),
    encodeMaskSet(randomSet(3, [2, 4], layers, parent)),
    encodeMaskSet(randomSet(4, [1, 4], layers, parent)),
    encodeMaskSet(randomSet(5, [4, 8], layers)),
    encodeMaskSet(randomSet(6, [2, 4], { 'two.chunks': [64, 272], odd: [3, 4] }), { chunkLog2: 12 }),
    encodeMaskSet(randomSet(7, [2, 4], Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`w${i}`, [2, 8]])))),
  ];
}

/** The mutated container number `iteration` of a seed: the same for both, always. */
export function mutatedInput(corpus: readonly Uint8Array[], seed: number, iteration: number): FuzzInput {
  const random = randomIntegers(Math.imul(seed, 0x9e3779b1) ^ Math.imul(iteration, 0x85ebca6b));
  const chosen = random(corpus.length);
  const history = [`container ${chosen}`];
  let bytes = Uint8Array.from(corpus[chosen]!);
  for (let left = 1 + random(3); left > 0; left--) {
    const [name, mutation] = MUTATIONS[random(MUTATIONS.length)]!;
    history.push(name);
    bytes = Uint8Array.from(mutation(bytes, random, corpus));
  }
  const repair = REPAIRS[random(REPAIRS.length)];
  if (repair === undefined) return { bytes, history: history.join(', '), corpus, blind: true };
  history.push(repair.name);
  return { bytes: repair(bytes), history: history.join(', '), corpus, blind: false };
}

const INTERESTING = [
  0,
  1,
  2,
  3,
  4,
  5,
  7,
  8,
  16,
  127,
  128,
  255,
  256,
  4096,
  65535,
  65536,
  2 ** 24,
  2 ** 30,
  2 ** 31,
  2 ** 32 - 1,
];

/** Fields of the fixed header that are lengths, counts or kinds. */
const HEADER_FIELDS = [8, 10, 12, 13, 14, 15, 16, 20, 24, 28, 32, 36];

const MUTATIONS: readonly (readonly [name: string, Mutation])[] = [
  ['flip a bit', (bytes, random) => edit(bytes, random, (at) => (bytes[at]! ^= 1 << random(8)))],
  ['set a byte', (bytes, random) => edit(bytes, random, (at) => (bytes[at] = random(256)))],
  ['set a word', (bytes, random) => putWord(bytes, random(bytes.length), interesting(random))],
  ['set a header field', (bytes, random) => putWord(bytes, pick(HEADER_FIELDS, random), interesting(random))],
  ['nudge a header field', (bytes, random) => nudge(bytes, pick(HEADER_FIELDS, random), random)],
  ['set a table field', (bytes, random) => putWord(bytes, 144 + 4 * random(64), interesting(random))],
  ['nudge a table byte', (bytes, random) => nudge(bytes, 144 + random(200), random)],
  ['cut the end', (bytes, random) => bytes.slice(0, random(bytes.length + 1))],
  ['append', (bytes, random) => concat(bytes, randomBytes(random))],
  ['insert', (bytes, random) => splice(bytes, random(bytes.length + 1), 0, randomBytes(random))],
  ['delete', (bytes, random) => splice(bytes, random(bytes.length + 1), 1 + random(40), new Uint8Array(0))],
  ['repeat a part', (bytes, random) => splice(bytes, random(bytes.length + 1), 0, part(bytes, random))],
  [
    'move a part',
    (bytes, random) => bytes.copyWithin(random(bytes.length + 1), random(bytes.length + 1), random(bytes.length + 1)),
  ],
  ['fill a part', (bytes, random) => fillPart(bytes, random)],
  ['splice another', (bytes, random, corpus) => spliceOther(bytes, pick(corpus, random), random)],
  ['swap chunks', (bytes, random) => withParts(bytes, (parts) => swapChunks(parts, random), join)],
  ['copy a name', (bytes, random) => withParts(bytes, ({ table }) => copyName(table, random), join)],
  // Sealed at once, since only a chunk length gives it away: it is never valid, whatever comes after.
  ['announce a long mask', (bytes, random) => withParts(bytes, (parts) => announceLongMask(parts, random))],
  ['grow a shape', (bytes, random) => withParts(bytes, ({ table }) => growShape(table, random), join)],
];

/** What a writer does on purpose: right checksums over wrong contents. Undefined: nothing. The more of them, the deeper it gets. */
const REPAIRS: readonly (((bytes: Uint8Array) => Uint8Array) | undefined)[] = [
  undefined,
  undefined,
  repairHeader,
  repairLengths,
  repairChunks,
  repairContent,
];

function repairHeader(bytes: Uint8Array): Uint8Array {
  return withParts(bytes, () => undefined);
}

/** Header checksums, and the length of the payload as it is. */
function repairLengths(bytes: Uint8Array): Uint8Array {
  return withParts(bytes, ({ header, payload }) => {
    setU32(header, 32, payload.length);
    setU32(header, 36, 0);
  });
}

function repairChunks(bytes: Uint8Array): Uint8Array {
  return withParts(bytes, sealChunks);
}

/** Everything, the content digest too where the container can still be read: now it is another valid one, or must be refused for its form. */
function repairContent(bytes: Uint8Array): Uint8Array {
  return withParts(bytes, (parts) => {
    sealChunks(parts);
    if (!isSmallAndWhole(parts)) return;
    const content = contentOf(seal(parts));
    if (content !== undefined) parts.header.set(Buffer.from(content, 'hex'), 72);
  });
}

/** Undefined where the tables lead out of the bytes. */
function contentOf(bytes: Uint8Array): string | undefined {
  try {
    return simpleContentDigest(simpleDecode(bytes));
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/** Whether the simple decoder, which checks nothing, may be let loose on it. */
function isSmallAndWhole({ header, table, index, payload }: ContainerParts): boolean {
  const view = new DataView(table.buffer, table.byteOffset, table.length);
  const tensors = u32(header, 16);
  let [at, groups] = [0, 0];
  for (let i = 0; i < tensors; i++) {
    if (at + 16 > table.length) return false;
    const name = table.subarray(at + 16, at + 16 + table[at]!);
    if (name.some((byte) => byte < 0x21 || byte > 0x7e)) return false;
    groups += (view.getUint32(at + 4, true) * view.getUint32(at + 8, true)) / Math.max(1, header[13]!);
    at += 16 + table[at]! + view.getUint16(at + 2, true);
  }
  const known = ['1:4', '2:4', '4:8'].includes(`${header[12]}:${header[13]}`);
  return (
    known && groups <= 6000 && Number.isInteger(groups) && at === table.length && index.length > 0 && payload.length > 0
  );
}

/** Changes the parts and makes the header's checksums right, or only joins them; bytes too short to have parts stay as they are. */
function withParts(bytes: Uint8Array, change: (parts: ContainerParts) => unknown, finish = seal): Uint8Array {
  if (bytes.length < 144) return bytes;
  const parts = takeApart(bytes);
  change(parts);
  return finish(parts);
}

function swapChunks({ index, payload }: ContainerParts, random: Random): void {
  const entries = index.length >> 3;
  if (entries < 2) return;
  const [a, b] = [8 * random(entries), 8 * random(entries)];
  const first = index.slice(a, a + 8);
  index.copyWithin(a, b, b + 8);
  index.set(first, b);
  if (random(2) === 0) payload.reverse();
}

/** Name bytes of one entry over those of another, where all entries are as long. */
function copyName(table: Uint8Array, random: Random): void {
  if (table.length < 32) return;
  const entry = 16 + table[0]!;
  const entries = Math.floor(table.length / entry);
  const from = entry * random(entries);
  table.copyWithin(entry * random(entries) + 16, from + 16, from + entry);
}

/** Gives the first tensor 2^20 to 2^27 groups in chunks of one byte. */
function announceLongMask(parts: ContainerParts, random: Random): void {
  const { header, table, index, payload } = parts;
  if (table.length < 16 || index.length < 8) return;
  const [replaced, chunks] = [u32(table, 12), 1 << random(8)];
  if (replaced * 8 > index.length) return;
  let bytes = 0;
  for (let i = 0; i < replaced; i++) bytes += u32(index, 8 * i);
  header[14] = 20;
  setU32(table, 4, 2 ** 10);
  setU32(table, 8, 2 ** 10 * header[13]! * chunks);
  setU32(table, 12, chunks);
  const entries = Uint8Array.from({ length: 8 * chunks }, (_, i) => (i % 8 === 0 ? 1 : 0));
  setIndex(parts, concat(entries, index.subarray(8 * replaced)));
  setPayload(parts, concat(new Uint8Array(chunks).fill(0x80), payload.subarray(bytes)));
  sealChunks(parts);
}

/** Rows or columns of the first tensor, times or plus something. */
function growShape(table: Uint8Array, random: Random): void {
  if (table.length < 16) return;
  const view = new DataView(table.buffer, table.byteOffset);
  const at = random(2) === 0 ? 4 : 8;
  const value = view.getUint32(at, true);
  view.setUint32(at, random(2) === 0 ? value * (1 + random(1 << 20)) : value + 4 * random(4), true);
}

function edit(bytes: Uint8Array, random: Random, change: (at: number) => unknown): Uint8Array {
  if (bytes.length > 0) change(random(bytes.length));
  return bytes;
}

function putWord(bytes: Uint8Array, at: number, value: number): Uint8Array {
  if (at + 4 <= bytes.length) setU32(bytes, at, value);
  return bytes;
}

function nudge(bytes: Uint8Array, at: number, random: Random): Uint8Array {
  if (at < bytes.length) bytes[at]! += random(2) === 0 ? 1 : 255;
  return bytes;
}

function fillPart(bytes: Uint8Array, random: Random): Uint8Array {
  const start = random(bytes.length + 1);
  return bytes.fill(pick([0, 255, 128], random), start, start + random(60));
}

function spliceOther(bytes: Uint8Array, other: Uint8Array, random: Random): Uint8Array {
  return concat(bytes.subarray(0, random(bytes.length + 1)), other.subarray(random(other.length + 1)));
}

function splice(bytes: Uint8Array, at: number, removed: number, added: Uint8Array): Uint8Array {
  return concat(bytes.subarray(0, at), added, bytes.subarray(at + removed));
}

function concat(...parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

function part(bytes: Uint8Array, random: Random): Uint8Array {
  const start = random(bytes.length + 1);
  return bytes.subarray(start, start + random(100));
}

function randomBytes(random: Random): Uint8Array {
  return Uint8Array.from({ length: 1 + random(40) }, () => random(256));
}

function interesting(random: Random): number {
  return random(2) === 0 ? pick(INTERESTING, random) : random(2 ** 32);
}

function pick<T>(items: readonly T[], random: Random): T {
  return items[random(items.length)]!;
}
