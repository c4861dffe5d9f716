/** MaskSet → container bytes. The same set, context and options give the same bytes. */
import { writeChunkEntry } from './chunk-index.js';
import { chooseCoders, type Choice } from './choose-coders.js';
import type { CoderName } from './coder.js';
import { sortedByName } from './container.js';
import { contentDigest } from './content-digest.js';
import type { DecodeContext } from './context.js';
import { crc32c } from './crc32c.js';
import type { ChunkCoding } from './dense-chunk.js';
import { encodeChunks } from './encode-chunks.js';
import { CodecError } from './errors.js';
import { fixedHeaderBytes, FORMAT_VERSION, writeFixedHeader, type FixedHeader } from './fixed-header.js';
import { planChunks } from './layout.js';
import { checkLimit } from './limits.js';
import type { Digest, MaskSet } from './mask-set.js';
import { writeModels } from './models.js';
import { checkSymbols, patternTable, type PatternTable } from './pattern.js';
import { checkName, duplicateTensor, groupsOf, writeTensorTable } from './tensor-table.js';
import { SectionWriter } from './varint.js';

export interface EncodeOptions {
  /**
   * What the decoder will have: the set's parent and the frozen weights. What is given may be needed to decode; without them the set
   * decodes by itself. The container then names the parent by its content digest.
   */
  readonly context?: DecodeContext;
  /** Codes all tensors, instead of what is smallest for each. */
  readonly coder?: CoderName;
  /**
   * Groups of a full chunk, as a power of two: 12 to 20. Default: 16 for large sets that are coded without context, else 18: there the states
   * of a chunk's lanes weigh more.
   */
  readonly chunkLog2?: number;
  /** Changes of a full patch chunk, as a power of two: 8 to 24. Default 13, chunks of some 12 KB. */
  readonly patchLog2?: number;
}

const LARGE_SET = 2 ** 24;
const LARGE_SET_CHUNK_LOG2 = 16;
const CHUNK_LOG2 = 18;
const PATCH_LOG2 = 13;

/**
 * Encodes a set, its masks in their order. Throws CodecError for a set that the format can't hold (`unsupported-pattern`, `bad-digest`,
 * `bad-name`, `duplicate-tensor`, `bad-shape`, `bad-symbol`, `length-limit`), `parent-mismatch` for a context's parent that is not the one
 * that the set names or is none for it, and `parent-missing`, `weights-missing`, `weights-mismatch` if `coder` needs what is not there.
 */
export function encodeMaskSet(set: MaskSet, options: EncodeOptions = {}): Uint8Array {
  checkLimit('tensorCount', set.masks.length, 'length-limit');
  const patterns = patternTable(set.n, set.m);
  const groups = checkMasks(set, patterns);
  const context = options.context ?? {};
  const parent = parentOf(set, context);
  const inherits = context.parent !== undefined && sameTensors(set, context.parent) && mayInherit(options);
  const masks = inherits ? sortedByName(set.masks) : set.masks;
  const choice = chooseCoders(masks, patterns, context, options.coder);
  const settings = {
    chunkLog2: options.chunkLog2 ?? defaultChunkLog2(choice, groups),
    patchLog2: options.patchLog2 ?? PATCH_LOG2,
    patterns: patterns.count,
  };
  checkLimit('chunkLog2', settings.chunkLog2, 'length-limit');
  checkLimit('patchLog2', settings.patchLog2, 'length-limit');
  const table = new SectionWriter();
  writeTensorTable(table, choice.tensors, inherits);
  const models = new SectionWriter();
  const coding: ChunkCoding = {
    patterns,
    tensors: choice.tensors,
    models: writeModels(models, choice.histograms, patterns),
    sources: choice.sources,
  };
  const plans = planChunks(choice.tensors, settings);
  checkLimit('chunkCount', plans.length, 'length-limit');
  const chunks = encodeChunks(plans, settings.chunkLog2, coding, choice, masks);
  const { base } = set;
  const { chunkLog2, patchLog2 } = settings;
  const head = { version: FORMAT_VERSION, chunkLog2, patchLog2, groups, base, parent, inherits } as const;
  return assemble({ ...head, patterns, tensorCount: masks.length, content: contentDigest(set) }, table, models, chunks);
}

/** What the encoder knows of a header before the sections are there. */
type HeaderStart = Omit<
  FixedHeader,
  'tableBytes' | 'modelBytes' | 'indexBytes' | 'chunkCount' | 'payloadBytes' | 'tablesChecksum'
>;

function assemble(
  start: HeaderStart,
  table: SectionWriter,
  models: SectionWriter,
  chunks: readonly Uint8Array[],
): Uint8Array {
  const index = new SectionWriter();
  for (const chunk of chunks) writeChunkEntry(index, chunk.length, crc32c(chunk));
  const sections = [table, models, index].map((section) => section.toBytes());
  const [tableBytes, modelBytes, indexBytes] = sections.map(({ length }) => length) as [number, number, number];
  const parts = [new Uint8Array(fixedHeaderBytes(start)), ...sections, ...chunks];
  const out = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  const tablesEnd = parts[0]!.length + tableBytes + modelBytes + indexBytes;
  writeFixedHeader(out, {
    ...start,
    tableBytes,
    modelBytes,
    indexBytes,
    chunkCount: chunks.length,
    payloadBytes: out.length - tablesEnd,
    tablesChecksum: crc32c(out.subarray(parts[0]!.length, tablesEnd)),
  });
  return out;
}

function defaultChunkLog2({ tensors }: Choice, groups: number): number {
  const free = tensors.every(({ coder }) => !coder.needsParent && !coder.needsWeights);
  return free && groups >= LARGE_SET ? LARGE_SET_CHUNK_LOG2 : CHUNK_LOG2;
}

/** Checks every mask; returns the groups of all. */
function checkMasks(set: MaskSet, patterns: PatternTable): number {
  const names = new Set<string>();
  let all = 0;
  set.masks.forEach(({ name, rows, cols, symbols }, i) => {
    checkName(name, i);
    if (names.has(name)) throw duplicateTensor(name);
    names.add(name);
    const groups = groupsOf(name, rows, cols, patterns);
    if (symbols.length !== groups) {
      throw new CodecError(
        'bad-symbol',
        `expected ${groups} symbols for ${name} (${rows} × ${cols}, ${patterns.n}:${patterns.m}), got ${symbols.length}`,
      );
    }
    checkSymbols(symbols, patterns.count, ` of ${name}`);
    all += groups;
  });
  return all;
}

/** The parent that the container names: the set's, or else the one that it is coded against. */
function parentOf(set: MaskSet, { parent }: DecodeContext): Digest | undefined {
  if (parent === undefined) return set.parent;
  if (parent.base !== set.base || parent.n !== set.n || parent.m !== set.m) {
    throw new CodecError(
      'parent-mismatch',
      `expected a parent of ${set.n}:${set.m} masks for the base ${set.base}, got ${parent.n}:${parent.m} for ${parent.base}`,
    );
  }
  const digest = contentDigest(parent);
  if (set.parent === undefined || set.parent === digest) return digest;
  throw new CodecError(
    'parent-mismatch',
    `expected the parent ${set.parent} that the set names, got ${digest}: encode it against its own, or name this one`,
  );
}

/** A forced coder that decodes by itself stays independent of the parent. */
function mayInherit({ coder }: EncodeOptions): boolean {
  return coder === undefined || coder.includes('parent') || coder.includes('patch');
}

function sameTensors(set: MaskSet, parent: MaskSet): boolean {
  const masks = new Map(parent.masks.map((mask) => [mask.name, mask]));
  return (
    set.masks.length === parent.masks.length &&
    set.masks.every(({ name, rows, cols }) => masks.get(name)?.rows === rows && masks.get(name)?.cols === cols)
  );
}
