/** Products of one input with compacted matrices, or with some rows of them: what there is to measure. */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { DenseMatrix } from './weights.js';

/** Of one input, multiplied in one call; columns in whole bytes of metadata. */
export type Matrices = readonly Pick<DenseMatrix, 'rows' | 'cols' | 'weight'>[];

/** Whole panels of any instruction set. */
const ROW_STEP = 64;
/** Two groups of the first pattern: which it is does not matter to any kernel's time. */
const FIRST_PATTERN = 0x44;
const NONE = { y: NO_BUFFER, packed: NO_BUFFER, rows: 0 };
const NO_PATCHES = new Float64Array(0);

export class CompactedSample {
  private readonly cols: number;
  private readonly x: Handle;
  private readonly products: readonly (typeof NONE)[];
  private readonly owned: Handle[] = [];

  /** With room for `tokens`; of each matrix its first rows, so many that all have about `elements`. */
  constructor(matrices: Matrices, tokens: number, elements = Infinity) {
    this.cols = matrices[0]?.cols ?? 0;
    this.x = this.holding(new Float32Array(tokens * this.cols).fill(1));
    const all = matrices.reduce((sum, { rows }) => sum + rows, 0) * this.cols;
    const share = Math.min(1, elements / all);
    this.products = matrices.map(({ rows, weight }) => {
      const some = Math.min(rows, Math.ceil((rows * share) / ROW_STEP) * ROW_STEP);
      const packed = this.keep(native.alloc(native.packedBytes(some, this.cols)));
      const meta = native.alloc((some * this.cols) / 8);
      native.write(meta, 0, new Uint8Array((some * this.cols) / 8).fill(FIRST_PATTERN));
      native.compress24(packed, weight, meta, some, this.cols);
      native.free(meta);
      return { y: this.keep(native.alloc(tokens * some * 4)), packed, rows: some };
    });
  }

  /** Once, by panels if `tokens` are panelTokens or more. */
  multiply(tokens: number, panelTokens: number): void {
    const [a = NONE, b = NONE, c = NONE] = this.products;
    const factors = [a.y, a.packed, a.rows, b.y, b.packed, b.rows, c.y, c.packed, c.rows] as const;
    native.matmul24Fused(this.x, tokens, this.cols, ...factors, NO_PATCHES, panelTokens);
  }

  dispose(): void {
    for (const handle of this.owned) native.free(handle);
    this.owned.length = 0;
  }

  private holding(array: ArrayBufferView): Handle {
    const handle = this.keep(native.alloc(array.byteLength));
    native.write(handle, 0, array);
    return handle;
  }

  private keep(handle: Handle): Handle {
    this.owned.push(handle);
    return handle;
  }
}
