/** A compacted task seen as the mask set that it was made from: what a child is decoded against and patched onto, without a container read. */
import type { MatrixShape } from '../../codec/context.js';
import type { Digest, Mask, MaskSet } from '../../codec/mask-set.js';
import { native, type Handle } from '../../kernels/index.js';
import type { KnownSet } from './open-containers.js';
import type { CompactedMatrix, MaskableMatrix } from '../engine/types.js';

export class CompactedParent implements KnownSet {
  /** Symbols are unpacked matrix by matrix, when a decoder asks for them, and only the last ones are remembered. */
  readonly maskSet: MaskSet;
  private readonly shapes: ReadonlyMap<string, MaskableMatrix>;
  private last: { readonly name: string; readonly symbols: Uint8Array } | undefined;

  constructor(
    readonly content: Digest,
    private readonly compacted: Readonly<Record<string, CompactedMatrix>>,
    model: { readonly base: Digest; readonly matrices: readonly MaskableMatrix[] },
  ) {
    const covered = model.matrices.filter(({ name }) => name in compacted);
    this.shapes = new Map(covered.map((matrix) => [matrix.name, matrix]));
    this.maskSet = { n: 2, m: 4, base: model.base, masks: covered.map((matrix) => this.lazyMask(matrix)) };
  }

  /** Whether a set has exactly this one's matrices. */
  covers(tensors: readonly MatrixShape[]): boolean {
    return tensors.length === this.shapes.size && tensors.every(({ name }) => this.shapes.has(name));
  }

  /** A matrix of this very shape. */
  packed({ name, rows, cols }: MatrixShape): Handle | undefined {
    const shape = this.shapes.get(name);
    return shape?.rows === rows && shape.cols === cols ? this.compacted[name]?.packed : undefined;
  }

  private lazyMask({ name, rows, cols }: MatrixShape): Mask {
    const symbols = (): Uint8Array => this.symbols(name, rows, cols);
    return {
      name,
      rows,
      cols,
      get symbols() {
        return symbols();
      },
    };
  }

  private symbols(name: string, rows: number, cols: number): Uint8Array {
    if (this.last?.name !== name) {
      const symbols = new Uint8Array((rows * cols) / 4);
      native.unpackSymbols(symbols, this.nibbles(name, rows, cols));
      this.last = { name, symbols };
    }
    return this.last.symbols;
  }

  /** A copy. */
  private nibbles(name: string, rows: number, cols: number): Uint8Array {
    const nibbles = new Uint8Array((rows * cols) / 8);
    const meta = native.alloc(nibbles.length);
    try {
      native.nibbles24(meta, this.compacted[name]!.packed, rows, cols);
      native.read(meta, 0, nibbles);
    } finally {
      native.free(meta);
    }
    return nibbles;
  }
}
