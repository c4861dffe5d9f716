/**
 * The patched cold path: a container → patches of its compacted parent. Where it was coded against that parent, only changed groups are decoded
 * and read of parent and weights, so that a switch costs its changes and not the model's parameters; else its nibbles are compared with the parent's.
 */
import type { TensorPatch } from '../../codec/context.js';
import type { Digest } from '../../codec/mask-set.js';
import { native, type Handle } from '../../kernels/index.js';
import type { CompactedMatrix, MaskableMatrix } from '../engine/types.js';
import type { BuiltTask } from './built-task.js';
import { CompactedParent } from './compacted-parent.js';
import type { LoadTarget } from './load-target.js';
import { OpenContainers, type ContainerFile } from './open-containers.js';

export interface PatchRequest {
  readonly path: string;
  readonly ancestors: readonly ContainerFile[];
  readonly parent: { readonly content: Digest; readonly matrices: Readonly<Record<string, CompactedMatrix>> };
  /** For all patches together. */
  readonly limitBytes: number;
}

/** The child is better off with a copy of its own. */
export class TooManyChanges extends Error {}

/** Matrices that do not change are left out. Throws CodecError, NoMemory, GivenUp, TooManyChanges. */
export function patchContainer(
  { path, ancestors, parent, limitBytes }: PatchRequest,
  task: BuiltTask,
  target: LoadTarget,
): Record<string, Handle> {
  const compacted = new CompactedParent(parent.content, parent.matrices, target);
  const files = new OpenContainers(ancestors, target, compacted);
  try {
    const reader = task.decoding(() => files.reader(path, target.base));
    const { tensors } = reader.summary;
    if (!compacted.covers(tensors)) throw new TooManyChanges('it covers other matrices than its parent');
    const isCodedAgainstIt = reader.needs.parent === parent.content;
    const patches: Record<string, Handle> = {};
    tensors.forEach((tensor, index) => {
      if (isCodedAgainstIt && tensor.changes === 0) return;
      target.refuseIfClosing();
      const matrix = target.matrixOf(tensor);
      const weighing = <T>(use: (weight: Handle) => T): T => target.withWeights(matrix, task, use);
      const { packed } = parent.matrices[matrix.name]!;
      const own = (bytes: number): Handle => {
        if (task.bytes + bytes <= limitBytes) return task.own(bytes);
        throw new TooManyChanges(`expected patches of at most ${limitBytes} bytes, got more`);
      };
      if (isCodedAgainstIt && tensor.changes !== undefined) {
        const change = task.decoding(() => reader.patch(index));
        patches[matrix.name] = task.compacting(() => patchOfChanges(packed, matrix, change, own, weighing));
      } else {
        const nibbles = task.decoding(() => reader.nibbles(index));
        patches[matrix.name] = task.compacting(() => patchOfNibbles(packed, matrix, nibbles, task, own, weighing));
      }
    });
    return patches;
  } finally {
    files.close();
  }
}

type Own = (bytes: number) => Handle;
type Weighing = (use: (weight: Handle) => void) => void;

function patchOfChanges(
  packed: Handle,
  { rows, cols }: MaskableMatrix,
  { groups, codes }: TensorPatch,
  own: Own,
  weighing: Weighing,
): Handle {
  const patch = own(native.changesBytes24(packed, groups, codes, rows, cols));
  weighing((weight) => finitely(() => native.buildChanges24(patch, packed, weight, groups, codes, rows, cols)));
  return patch;
}

function patchOfNibbles(
  packed: Handle,
  { rows, cols }: MaskableMatrix,
  nibbles: Uint8Array,
  task: BuiltTask,
  own: Own,
  weighing: Weighing,
): Handle {
  return task.withBuffer(nibbles.length, (meta) => {
    native.write(meta, 0, nibbles);
    const patch = own(native.patchBytes24(packed, meta, rows, cols));
    weighing((weight) => finitely(() => native.buildPatch24(patch, packed, weight, meta, rows, cols)));
    return patch;
  });
}

/** Weights that are not finite can't be taken out of a sum: such a child gets a copy of its own. */
function finitely(build: () => void): void {
  try {
    build();
  } catch (error) {
    throw new TooManyChanges(error instanceof Error ? error.message : String(error));
  }
}
