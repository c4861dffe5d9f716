/** A compacted task seen as the mask set that it was made from: what a child is decoded against and patched onto, without a container read. */
import type { TensorPatch } from '../../codec/context.js';
import type { Digest, Mask, MaskSet } from '../../codec/mask-set.js';
import { native, type Handle } from '../../kernels/index.js';
import type { CompactedMatrix, MaskableMatrix } from '../engine/types.js';

interface Shape {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
}

export class CompactedParent {
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
  covers(tensors: readonly Shape[]): boolean {
    return tensors.length === this.shapes.size && tensors.every(({ name }) => this.shapes.has(name));
  }

  /** meta (rows · cols/8) ← the child's canonical nibbles: all of them, or this set's with the changed groups replaced. */
  writeChild(meta: Handle, { name, rows, cols }: Shape, change: Uint8Array | TensorPatch): void {
    if (change instanceof Uint8Array) return native.write(meta, 0, change);
    const nibbles = this.nibbles(name, rows, cols);
    change.groups.forEach((group, i) => {
      const shift = (group & 1) * 4;
      const byte = nibbles[group >> 1]!;
      nibbles[group >> 1] = (byte & ~(15 << shift)) | (change.codes[i]! << shift);
    });
    native.write(meta, 0, nibbles);
  }

  private lazyMask({ name, rows, cols }: Shape): Mask {
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
