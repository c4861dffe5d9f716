/**
 * The fused cold path: a container's chunks → compacted matrices, layer after layer. What native code can't take from its chunks (FORMAT.md's
 * arithmetic coder and patches, narrow matrices) goes by one matrix's nibbles.
 */
import type { CompactionBuffers } from '../../codec/fast-compaction.js';
import type { ContainerReader } from '../../codec/decode.js';
import { native, type Handle } from '../../kernels/index.js';
import type { CompactedMatrix, MaskableMatrix } from '../engine/types.js';
import type { BuiltTask } from './built-task.js';
import type { LoadTarget } from './load-target.js';
import { OpenContainers, type ContainerFile } from './open-containers.js';

/** Throws CodecError, NoMemory, GivenUp. */
export function compactContainer(
  { path, ancestors }: { readonly path: string; readonly ancestors: readonly ContainerFile[] },
  task: BuiltTask,
  target: LoadTarget,
): Record<string, CompactedMatrix> {
  const files = new OpenContainers(ancestors, target);
  try {
    const reader = task.decoding(() => files.reader(path, target.base));
    return compactAll(reader, task, target);
  } finally {
    files.close();
  }
}

function compactAll(reader: ContainerReader, task: BuiltTask, target: LoadTarget): Record<string, CompactedMatrix> {
  const matrices = reader.summary.tensors.map((tensor) => target.matrixOf(tensor));
  const compacted = task.ownCopy(matrices);
  const buffersOf = (index: number): CompactionBuffers => {
    const { name, weight } = matrices[index]!;
    return { weights: weight, packed: compacted[name]!.packed };
  };
  const fused = reader.compaction(buffersOf);
  const layers = layersOf(matrices);
  for (const group of target.onHost ? layers : grouped(layers, matrices)) {
    target.refuseIfClosing();
    const covered = group.filter((index) => fused?.covers(index));
    // Weights that a GPU does not hold visit it a matrix at a time.
    const runs = target.weightsInReach ? [covered] : covered.map((index) => [index]);
    for (const run of runs) {
      if (fused && run.length > 0) task.decodingAndCompacting(() => fused.upTo(run));
    }
    for (const index of group) {
      if (fused?.covers(index)) continue;
      const matrix = matrices[index]!;
      compactOne(reader, index, { matrix, ...compacted[matrix.name]! }, { task, target });
    }
  }
  return compacted;
}

function compactOne(
  reader: ContainerReader,
  index: number,
  { matrix, packed }: { readonly matrix: MaskableMatrix; readonly packed: Handle },
  { task, target }: { readonly task: BuiltTask; readonly target: LoadTarget },
): void {
  const nibbles = task.decoding(() => reader.nibbles(index));
  task.compacting(() =>
    task.withBuffer(nibbles.length, (meta) => {
      native.write(meta, 0, nibbles);
      target.withWeights(matrix, task, (weight) => native.compress24(packed, weight, meta, matrix.rows, matrix.cols));
    }),
  );
}

/**
 * Weights of the matrices that a GPU compacts in one call, or one layer's: a few layers, so that their chunks keep it busy and arrive while those
 * before are decoded, and that the parents' nibbles, which go along, are 128 MiB of the working memory at most.
 */
const WEIGHTS_AT_ONCE = 2 ** 30;

/** Neighbouring layers together, as long as they have not more than WEIGHTS_AT_ONCE. */
function grouped(layers: readonly (readonly number[])[], matrices: readonly MaskableMatrix[]): number[][] {
  const groups: number[][] = [];
  let left = 0;
  for (const layer of layers) {
    const weights = layer.reduce((sum, index) => sum + matrices[index]!.rows * matrices[index]!.cols, 0);
    if (groups.length === 0 || weights > left) {
      groups.push([]);
      left = WEIGHTS_AT_ONCE;
    }
    groups.at(-1)!.push(...layer);
    left -= weights;
  }
  return groups;
}

/** Indices of the matrices of each decoder layer, in the order given; matrices outside of layers stand alone. */
function layersOf(matrices: readonly MaskableMatrix[]): number[][] {
  const layers = new Map<string, number[]>();
  matrices.forEach(({ name }, index) => {
    const layer = /^model\.layers\.\d+\./.exec(name)?.[0] ?? name;
    const members = layers.get(layer);
    if (members) members.push(index);
    else layers.set(layer, [index]);
  });
  return [...layers.values()];
}
