/** Products of one input with what stands for compacted matrices: what there is to measure. */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { DenseMatrix } from './weights.js';

/** Of one input, multiplied in one call; columns in whole bytes of metadata. */
export type Matrices = readonly Pick<DenseMatrix, 'rows' | 'cols' | 'weight'>[];

/** Whole panels of any instruction set. */
const ROW_STEP = 64;
const NONE = { y: NO_BUFFER, packed: NO_BUFFER, rows: 0 };
const NO_PATCHES = new Float64Array(0);

/**
 * The dense weights are used as if they were packed: any bytes name places within a group of four, and no kernel's time depends on which, or on values. So
 * nothing has to be compacted, and what is multiplied comes from as far away as it does in serving, where every matrix of a model has its turn.
 */
export class CompactedSample {
  private readonly cols: number;
  private readonly x: Handle;
  private readonly layers: readonly (readonly (typeof NONE)[])[];
  private readonly owned: Handle[] = [];
  private turn = 0;

  /** Of the same matrices of each layer the first rows, so many that all of a layer have about `elements`; with room for `tokens`. */
  constructor(layers: readonly Matrices[], tokens: number, elements = Infinity) {
    const first = layers[0] ?? [];
    this.cols = first[0]?.cols ?? 0;
    this.x = this.keep(native.alloc(tokens * this.cols * 4));
    native.write(this.x, 0, new Float32Array(tokens * this.cols).fill(1));
    const all = first.reduce((sum, { rows }) => sum + rows, 0) * this.cols;
    const share = Math.min(1, elements / all);
    const outputs = first.map(({ rows }) => {
      const some = Math.min(rows, Math.ceil((rows * share) / ROW_STEP) * ROW_STEP);
      return { y: this.keep(native.alloc(tokens * some * 4)), rows: some };
    });
    this.layers = layers.map((matrices) =>
      outputs.map(({ y, rows }, i) => {
        const packed = this.keep(native.view(matrices[i]?.weight ?? NO_BUFFER, 0, native.packedBytes(rows, this.cols)));
        native.readThrough(packed); // a mapped file's pages are there from now on
        return { y, packed, rows };
      }),
    );
  }

  /** The next layer once, by panels if `tokens` are panelTokens or more. */
  multiply(tokens: number, panelTokens: number): void {
    const [a = NONE, b = NONE, c = NONE] = this.layers[this.turn++ % this.layers.length] ?? [];
    const factors = [a.y, a.packed, a.rows, b.y, b.packed, b.rows, c.y, c.packed, c.rows] as const;
    native.matmul24Fused(this.x, tokens, this.cols, ...factors, NO_PATCHES, panelTokens);
  }

  dispose(): void {
    for (const handle of this.owned.reverse()) native.free(handle);
    this.owned.length = 0;
  }

  private keep(handle: Handle): Handle {
    this.owned.push(handle);
    return handle;
  }
}
