/** What the coder of a tensor needs beside its chunks: the parent's masks, the frozen weights, scales of columns. FORMAT.md §7, §8.3. */
import type { CodedTensor } from '../kernels/codec-types.js';
import type { Handle } from '../kernels/handle.js';
import type { ChunkSource } from './chunk-source.js';
import { overrun } from './chunk-source.js';
import type { Container } from './container.js';
import type { DecodeContext } from './context.js';
import { CodecError } from './errors.js';
import { packedSymbols, type FastCoders } from './fast-coders.js';
import type { TensorSources } from './group-contexts.js';
import type { TensorEntry } from './layout.js';
import type { Digest, Mask } from './mask-set.js';
import type { ColumnScales } from './ranks.js';
import { decodeScales, scalesOfSymbols } from './scales.js';

/** Inputs as native coders take them. */
export type NativeInputs = Pick<CodedTensor, 'weights' | 'scales' | 'parent'> & { readonly packedParent?: Handle };

/** Tensors are named by their index as coded. All methods throw CodecError `parent-missing`, `parent-mismatch`, `weights-missing`, `weights-mismatch`. */
export class DecoderInputs {
  private readonly parentMasks: ReadonlyMap<string, Mask>;
  private scales: ReadonlyMap<number, ColumnScales> | undefined;

  constructor(
    private readonly container: Container,
    private readonly context: DecodeContext,
    private readonly chunks: ChunkSource,
  ) {
    this.parentMasks = new Map(context.parent?.masks.map((mask) => [mask.name, mask]));
  }

  /** What its coder needs. */
  of(coded: number): TensorSources {
    const tensor = this.tensors()[coded]!;
    const { needsParent, needsWeights, codes } = tensor.coder;
    return {
      ...(needsParent ? { parent: this.parentSymbols(tensor) } : {}),
      ...(needsWeights ? { weights: this.weights(tensor) } : {}),
      ...(codes === 'scaled ranks' ? { scales: this.scalesOf(coded) } : {}),
    };
  }

  /** The same for native coders: buffers where the context has them. */
  native(coded: number, fast: FastCoders): NativeInputs {
    const tensor = this.tensors()[coded]!;
    const { needsParent, needsWeights, codes } = tensor.coder;
    return {
      ...(needsParent ? this.nativeParent(tensor, fast) : {}),
      ...(needsWeights ? { weights: this.nativeWeights(tensor) } : {}),
      ...(codes === 'scaled ranks' ? { scales: this.scalesOf(coded).byColumn } : {}),
    };
  }

  nativeWeights(tensor: TensorEntry): Handle | Uint16Array {
    return this.context.buffers?.weights?.(tensor) ?? this.weights(tensor);
  }

  parentSymbols(tensor: TensorEntry): Uint8Array {
    if (this.context.parent === undefined) throw parentMissing(this.container.header.parent);
    const mask = this.parentMasks.get(tensor.name);
    if (mask?.rows !== tensor.rows || mask.cols !== tensor.cols) {
      throw new CodecError(
        'parent-mismatch',
        `expected a parent with ${tensor.name} of ${tensor.rows} × ${tensor.cols}, got ${mask === undefined ? 'none' : `${mask.rows} × ${mask.cols}`}`,
      );
    }
    return mask.symbols;
  }

  /** In the order of coding. */
  tensors(): readonly TensorEntry[] {
    const { tensors } = this.container;
    if (tensors === undefined) throw parentMissing(this.container.header.parent);
    return tensors;
  }

  /** (rows · cols) */
  weights({ name, rows, cols, coder }: TensorEntry): Uint16Array {
    const weights = this.context.weights?.(name);
    if (weights === undefined) {
      throw new CodecError(
        'weights-missing',
        `expected the frozen weights of ${name}, which ${coder.name} needs, got none: decode it beside its model`,
      );
    }
    if (weights.length !== rows * cols) {
      throw new CodecError('weights-mismatch', `expected ${rows} × ${cols} weights of ${name}, got ${weights.length}`);
    }
    return weights;
  }

  /** Only patches have single groups of the parent looked up. */
  private nativeParent(tensor: TensorEntry, fast: FastCoders): Pick<NativeInputs, 'parent' | 'packedParent'> {
    const packed = tensor.coder.form === 'patch' ? this.context.buffers?.packedParent?.(tensor) : undefined;
    if (packed !== undefined) return { packedParent: packed };
    return { parent: packedSymbols(fast, this.parentSymbols(tensor)) };
  }

  private scalesOf(coded: number): ColumnScales {
    this.scales ??= this.readScales();
    return this.scales.get(coded) as ColumnScales;
  }

  private readScales(): ReadonlyMap<number, ColumnScales> {
    const { plans, models } = this.container;
    const plan = plans?.[0];
    if (plan?.kind !== 'scales') throw new RangeError('expected a chunk of scales first');
    const tensors = this.tensors();
    const table = models.get(tensors[plan.tensors[0]!]!.coder)?.single;
    const bytes = this.chunks.read(0);
    const cols = plan.tensors.map((tensor) => tensors[tensor]!.cols);
    const scales = table && decodeScales(bytes, cols, table);
    if (scales === undefined) throw overrun(0, bytes.length);
    return new Map(plan.tensors.map((tensor, i) => [tensor, scalesOfSymbols(scales[i]!)]));
  }
}

export function parentMissing(parent: Digest | undefined): CodecError {
  return new CodecError(
    'parent-missing',
    `expected the parent mask set ${parent ?? '(none named)'}, which this one is coded against, got none: provide it first`,
  );
}
