/**
 * The reader with native coders: it says of every container what it says without them, encodes the same bytes, and what it compacts or patches
 * straight from a container is what its masks give.
 */
import type { DecodeContext } from '../../codec/context.js';
import { ContainerReader, decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { CodecError } from '../../codec/errors.js';
import type { CompactionBuffers } from '../../codec/fast-compaction.js';
import { useFastCoders } from '../../codec/fast-coders.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { symbolsToNibbles } from '../../codec/pattern.js';
import { native } from '../../kernels/index.js';
import { BASE } from '../codec/random-sets.js';
import { scoped, type Scope } from '../kernels/scope.js';
import { contextFor } from './mutate.js';
import { Violation, type FuzzInput, type FuzzTarget } from './target.js';

export function makeTarget(): Promise<FuzzTarget> {
  return Promise.resolve({ run, close: () => Promise.resolve(useFastCoders(undefined)) });
}

function run({ bytes }: FuzzInput): string {
  const options = { expectBase: BASE, context: contextFor(bytes) };
  const portable = read(undefined, () => decodeMaskSet(bytes, options));
  const fast = read(native, () => decodeMaskSet(bytes, options));
  if (codeOf(portable) !== codeOf(fast)) {
    throw new Violation(`TypeScript says ${codeOf(portable)}, native code ${codeOf(fast)}`);
  }
  read(native, () => scoped((scope) => compareCompacted(scope, new ContainerReader(bytes, options), options.context)));
  if (portable instanceof CodecError || fast instanceof CodecError) return codeOf(portable);
  portable.masks.forEach(({ name, symbols }, i) => {
    same(symbols, fast.masks[i]!.symbols, `the symbols of ${name}`);
  });
  if (fast.n === 2) {
    read(native, () =>
      scoped((scope) => comparePatches(scope, new ContainerReader(bytes, options), fast, options.context)),
    );
  }
  const again = (): Uint8Array => encodeMaskSet(fast, { context: options.context });
  const [slowly, fastly] = [read(undefined, again), read(native, again)];
  if (slowly instanceof CodecError || fastly instanceof CodecError) {
    throw new Violation(`what was decoded does not encode: ${codeOf(slowly)}, by native code ${codeOf(fastly)}`);
  }
  same(slowly, fastly, 'encoded sets');
  return 'accepted';
}

/** What `what` gives with these coders, or the error that refuses it. */
function read<T>(coders: typeof native | undefined, what: () => T): T | CodecError {
  useFastCoders(coders);
  try {
    return what();
  } catch (error) {
    if (error instanceof CodecError) return error;
    throw error;
  } finally {
    useFastCoders(undefined);
  }
}

function codeOf(result: unknown): string {
  return result instanceof CodecError ? result.code : 'accepted';
}

/** Matrices compacted from chunks, against those compacted from the mask. */
function compareCompacted(scope: Scope, reader: ContainerReader, { weights }: DecodeContext): void {
  const { tensors } = reader.summary;
  if (tensors.some(({ name, rows, cols }) => weights?.(name)?.length !== rows * cols)) return;
  const buffers = new Map<number, CompactionBuffers>();
  const buffersOf = (index: number): CompactionBuffers => {
    const { name, rows, cols } = tensors[index]!;
    const own = { weights: scope.put(weights?.(name) as Uint16Array), packed: scope.room((rows * cols * 9) / 8) };
    buffers.set(index, own);
    return own;
  };
  const compaction = reader.compaction(buffersOf);
  tensors.forEach(({ name, rows, cols }, index) => {
    if (compaction?.covers(index) !== true) return;
    compaction.upTo([index]);
    const bytes = (rows * cols * 9) / 8;
    const [expected, { weights: w, packed }] = [scope.room(bytes), buffers.get(index)!];
    native.compress24(expected, w, scope.put(reader.nibbles(index)), rows, cols);
    same(scope.bytes(packed, bytes), scope.bytes(expected, bytes), `compacted ${name}`);
  });
}

/** Patches of a compacted parent made from changes alone, against those made from the mask. */
function comparePatches(scope: Scope, reader: ContainerReader, set: MaskSet, { parent, weights }: DecodeContext): void {
  reader.summary.tensors.forEach(({ name, rows, cols, changes }, index) => {
    const own = weights?.(name);
    const from = parent?.masks.find((mask) => mask.name === name);
    if (!changes || own?.length !== rows * cols || from === undefined || cols % 8 !== 0) return;
    const packed = scope.room((rows * cols * 9) / 8);
    const w = scope.put(own);
    native.compress24(packed, w, scope.put(symbolsToNibbles(from.symbols)), rows, cols);
    const { groups, codes } = reader.patch(index);
    const size = native.changesBytes24(packed, groups, codes, rows, cols);
    const meta = scope.put(symbolsToNibbles(set.masks[index]!.symbols));
    if (native.patchBytes24(packed, meta, rows, cols) !== size)
      throw new Violation(`patches of ${name} differ in size`);
    const [listed, found] = [scope.room(size), scope.room(size)];
    native.buildChanges24(listed, packed, w, groups, codes, rows, cols);
    native.buildPatch24(found, packed, w, meta, rows, cols);
    same(scope.bytes(listed, size), scope.bytes(found, size), `the patch of ${name}`);
  });
}

function same(a: Uint8Array, b: Uint8Array, what: string): void {
  if (Buffer.compare(a, b) !== 0) throw new Violation(`${what} differ`);
}
