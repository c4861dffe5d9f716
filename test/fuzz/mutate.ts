/** Valid containers and what can happen to them: damage without knowledge, and lies by a writer that knows the format. */
import type { CoderName } from '../../codec/coder.js';
import type { DecodeContext } from '../../codec/context.js';
import { combineTensorDigests, contentDigest, TensorHash } from '../../codec/content-digest.js';
import { ContainerReader } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { CodecError } from '../../codec/errors.js';
import { patternTable } from '../../codec/pattern.js';
import {
  AT,
  FIXED_HEADER,
  indexEntries,
  join,
  seal,
  sealChunks,
  setIndex,
  setPayload,
  setTable,
  setU32,
  takeApart,
  varint,
  type ContainerParts,
} from '../codec/container-parts.js';
import { randomChild, randomIntegers, randomSet, randomWeights } from '../codec/random-sets.js';
import type { FuzzInput } from './target.js';

type Random = (below: number) => number;
type Mutation = (bytes: Uint8Array, random: Random, corpus: readonly Uint8Array[]) => Uint8Array;

const LAYERS = { 'q.weight': [16, 48], 'k.weight': [4, 48], 'up.weight': [8, 24] } as const;
const PARENT = randomSet(3, [2, 4], LAYERS);
const LARGE = { 'two.chunks': [64, 272], odd: [3, 4] } as const;
const LARGE_PARENT = randomSet(8, [2, 4], LARGE);
/** Rows of whole blocks, which are compacted straight from their chunks. */
const BLOCKS = { 'gate.weight': [5, 128], 'down.weight': [3, 64] } as const;
const BLOCKS_PARENT = randomSet(9, [2, 4], BLOCKS);
const SHAPES = { ...LAYERS, ...LARGE, ...BLOCKS } as const;

/** Parents by content digest, and the weights of all tensors: what a reader of the corpus has. */
const PARENTS = new Map([PARENT, LARGE_PARENT, BLOCKS_PARENT].map((set) => [contentDigest(set), set]));
const WEIGHTS = randomWeights(5, SHAPES);

/** What the reader has for a container: its parent if the corpus has it, and the weights. */
export function contextFor(bytes: Uint8Array): DecodeContext {
  const digest = Buffer.from(bytes.subarray(AT.parent, AT.parent + 32)).toString('hex');
  const parent = PARENTS.get(digest);
  return { weights: WEIGHTS, ...(parent === undefined ? {} : { parent }) };
}

/** Small, so that 200,000 take minutes; all kinds of sections, coders, n:m, last chunks and numbers of tensors. */
export function makeCorpus(): Uint8Array[] {
  return [...makeRoots(), ...makeChildren()];
}

/** Containers that decode by themselves. */
export function makeRoots(): Uint8Array[] {
  const ac = { coder: 'uniform-ac' } as const;
  return [
    encodeMaskSet(randomSet(1, [2, 4], { w: [1, 4] }), ac),
    encodeMaskSet(randomSet(2, [2, 4], LAYERS), ac),
    encodeMaskSet(randomSet(3, [2, 4], LAYERS, 'fa'.repeat(32)), ac),
    encodeMaskSet(randomSet(4, [1, 4], LAYERS, 'fa'.repeat(32)), ac),
    encodeMaskSet(randomSet(5, [4, 8], LAYERS)),
    encodeMaskSet(randomSet(6, [2, 4], LARGE), { ...ac, chunkLog2: 12 }),
    encodeMaskSet(randomSet(6, [2, 4], LARGE), { coder: 'uniform', chunkLog2: 12 }),
    encodeMaskSet(BLOCKS_PARENT, { coder: 'uniform' }),
    encodeMaskSet(randomSet(7, [2, 4], Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`w${i}`, [2, 8]])))),
  ];
}

/** One for each coder that needs parent or weights, small, in several chunks and of whole blocks. */
function makeChildren(): Uint8Array[] {
  const coders: readonly CoderName[] = [
    'static',
    'parent',
    'weights',
    'scaled-weights',
    'parent+weights',
    'patch',
    'patch+weights',
  ];
  return [PARENT, LARGE_PARENT, BLOCKS_PARENT].flatMap((parent, i) => {
    const set = randomChild(20 + i, parent, 600);
    const context = { parent, weights: WEIGHTS };
    return coders.map((coder) => encodeMaskSet(set, { context, coder, chunkLog2: 12, patchLog2: 8 }));
  });
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
const HEADER_FIELDS = [8, 10, 12, 13, 14, 15, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52];

const MUTATIONS: readonly (readonly [name: string, Mutation])[] = [
  ['flip a bit', (bytes, random) => edit(bytes, random, (at) => (bytes[at]! ^= 1 << random(8)))],
  ['set a byte', (bytes, random) => edit(bytes, random, (at) => (bytes[at] = random(256)))],
  ['set a word', (bytes, random) => putWord(bytes, random(bytes.length), interesting(random))],
  ['set a header field', (bytes, random) => putWord(bytes, pick(HEADER_FIELDS, random), interesting(random))],
  ['nudge a header field', (bytes, random) => nudge(bytes, pick(HEADER_FIELDS, random), random)],
  ['set a table field', (bytes, random) => putWord(bytes, FIXED_HEADER + random(200), interesting(random))],
  ['nudge a table byte', (bytes, random) => nudge(bytes, FIXED_HEADER + random(200), random)],
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
  ['copy a table entry', (bytes, random) => withParts(bytes, (parts) => copyEntry(parts, random), join)],
  // Sealed at once, since only a chunk length gives it away: it is never valid, whatever comes after.
  ['announce a long mask', (bytes, random) => withParts(bytes, (parts) => announceLongMask(parts, random))],
  [
    'nudge a model',
    (bytes, random) => withParts(bytes, ({ models }) => nudge(models, random(models.length + 1), random)),
  ],
  ['set a coder', (bytes, random) => withParts(bytes, ({ table }) => setCoder(table, random))],
  ['raise a count', (bytes, random) => withParts(bytes, ({ table }) => table.fill(127, -1 - random(2)))],
  // Sealed at once for the same reason.
  ['move a payload byte', (bytes, random) => withParts(bytes, (parts) => disturb(parts, random))],
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
  return withParts(bytes, (parts) => {
    setPayload(parts, parts.payload);
    setU32(parts.header, AT.payloadBytes + 4, 0);
  });
}

function repairChunks(bytes: Uint8Array): Uint8Array {
  return withParts(bytes, sealChunks);
}

/** Everything, the content digest too where the container can still be read: now it is another valid one, or must be refused for its form. */
function repairContent(bytes: Uint8Array): Uint8Array {
  return withParts(bytes, (parts) => {
    sealChunks(parts);
    const content = contentOf(seal(parts));
    if (content !== undefined) parts.header.set(Buffer.from(content, 'hex'), AT.content);
  });
}

/** Undefined where the container can't be read. */
function contentOf(bytes: Uint8Array): string | undefined {
  try {
    const reader = new ContainerReader(bytes, { context: contextFor(bytes) });
    const { n, m, base, tensors } = reader.summary;
    if (tensors.reduce((sum, { groups }) => sum + groups, 0) > 20_000) return undefined;
    const digests = tensors.map(({ name, rows, cols }, i) => {
      const hash = new TensorHash(patternTable(n, m), name, rows, cols);
      hash.update(reader.symbols(i));
      return hash.digest();
    });
    return combineTensorDigests(base, patternTable(n, m), digests);
  } catch (error) {
    if (error instanceof CodecError) return undefined;
    throw error;
  }
}

/** Changes the parts and makes the header's checksums right, or only joins them; bytes too short to have parts stay as they are. */
function withParts(bytes: Uint8Array, change: (parts: ContainerParts) => unknown, finish = seal): Uint8Array {
  if (bytes.length < FIXED_HEADER) return bytes;
  const parts = takeApart(bytes);
  change(parts);
  return finish(parts);
}

function swapChunks(parts: ContainerParts, random: Random): void {
  const entries = indexEntries(parts);
  if (entries.length < 2) return;
  const [a, b] = [random(entries.length), random(entries.length)];
  [entries[a], entries[b]] = [entries[b]!, entries[a]!];
  setIndex(parts, entries);
  if (random(2) === 0) parts.payload.reverse();
}

/** Some bytes of the tensor table over others of as many. */
function copyEntry({ table }: ContainerParts, random: Random): void {
  const from = random(table.length + 1);
  table.copyWithin(random(table.length + 1), from, from + 1 + random(16));
}

function setCoder(table: Uint8Array, random: Random): void {
  if (table.length > 0) table[0] = random(12);
}

/** One bit of payload or chunk under right checksums. */
function disturb(parts: ContainerParts, random: Random): void {
  if (parts.payload.length === 0) return;
  parts.payload[random(parts.payload.length)]! ^= 1 << random(8);
  sealChunks(parts);
}

/** Gives one tensor 2^20 to 2^27 groups in as many chunks of a byte. */
function announceLongMask(parts: ContainerParts, random: Random): void {
  const chunks = 1 << random(8);
  const groups = chunks * 2 ** 20;
  parts.header[14] = 20;
  parts.header[AT.flags]! &= 1;
  setU32(parts.header, AT.tensorCount, 1);
  setU32(parts.header, AT.groups, groups);
  setU32(parts.header, AT.groups + 4, 0);
  setU32(parts.header, AT.modelBytes, 0);
  parts.models = new Uint8Array(0);
  const m = parts.header[13]!;
  setTable(
    parts,
    Uint8Array.from([1 + random(2), 1, 0, 0, 1, 119, ...varint(2 ** 10), ...varint(2 ** 10 * m * chunks)]),
  );
  setIndex(
    parts,
    Array.from({ length: chunks }, () => ({ bytes: 1, checksum: 0 })),
  );
  setPayload(parts, new Uint8Array(chunks).fill(0x80));
  setU32(parts.header, AT.payloadBytes + 4, 0);
  sealChunks(parts);
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
