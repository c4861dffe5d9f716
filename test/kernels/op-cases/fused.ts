/** Products of one input in one call, of one, two or three matrices: the bits of each by itself, on every backend. */
import { NO_BUFFER, native, type Handle } from '../../../kernels/index.js';
import { assertSameBits, changed, floats, metadata, weights, type Random } from '../numbers.js';
import type { Scope } from '../scope.js';
import { BF16, FP32, opCase, type OpCase, type Outputs } from './op-case.js';

/** T: where a GPU goes from one kernel to the next, and one on: gemv's tiles, mma.sp's panels, cuBLASLt and cuSPARSELt. */
const TOKENS = [1, 2, 4, 5, 9, 16, 17, 40];
/** K, and each matrix's N: whole blocks of mma.sp; rows that fill no block; columns that no wide load divides. */
const SHAPES: readonly (readonly [number, readonly [number, number, number]])[] = [
  [128, [37, 16, 8]],
  [72, [5, 1, 18]],
];
/** On a CPU a product is then by dot products, as matmul24 is. */
const LONG_PROMPT = 65;

export const FUSED: readonly OpCase[] = (['f32', 'bf16'] as const).flatMap((precision) =>
  SHAPES.flatMap(([k, rows]) =>
    TOKENS.map((tokens) =>
      opCase(
        `${tokens} tokens through one, two and three matrices of ${k} columns at once in ${precision}: dense, 2:4, patched`,
        precision === 'f32' ? FP32 : BF16,
        (scope, next) => fused(scope, next, tokens, k, rows),
        precision,
      ),
    ),
  ),
);

/** T: a CUDA core's and a tensor core's; with more a product may come from a matrix library, which has its own idea of what 0 · ∞ is. */
export const NONFINITE: readonly OpCase[] = [4, 16].map((tokens) =>
  opCase(
    `of ${tokens} tokens, some not finite, each is NaN where its own mask prunes them, and infinite where it keeps them`,
    'bits',
    (scope, next) => {
      const [k, rows] = SHAPES[0]!;
      const matrices = rows.map((n) => matrixOf(scope, next, tokens, n, k));
      const x = floats(next, tokens * k);
      for (let t = 0; t < tokens; t++) x[t * k + 37 + t] = [Infinity, -Infinity, NaN][t % 3]!;
      const products = productsOfInput(scope, scope.put(x), tokens, k, matrices);
      return Object.fromEntries(
        Object.entries(products).map(([name, values]) => [name, Uint8Array.from(values as Float32Array, kindOf)]),
      );
    },
  ),
);

function kindOf(y: number): number {
  return Number.isFinite(y) ? 0 : Number.isNaN(y) ? 1 : y > 0 ? 2 : 3;
}

interface Matrix {
  readonly n: number;
  readonly w: Handle;
  readonly packed: Handle;
  /** Of each token: every other one has none. */
  readonly patches: Float64Array;
}

function matrixOf(scope: Scope, next: Random, tokens: number, n: number, k: number): Matrix {
  const w = scope.put(weights(next, n * k));
  const nibbles = metadata(next, (n * k) / 8);
  const packed = scope.room(native.packedBytes(n, k));
  native.compress24(packed, w, scope.put(nibbles), n, k);
  const child = scope.put(changed(next, nibbles, 0.1));
  const patch = scope.room(native.patchBytes24(packed, child, n, k));
  native.buildPatch24(patch, packed, w, child, n, k);
  const patches = Float64Array.from({ length: tokens }, (_, t) => (t % 2 === n % 2 ? patch : NO_BUFFER));
  return { n, w, packed, patches };
}

/** What becomes of activations that are not finite is not as near to the CPU's as a sum: only the bits are compared. */
function fused(scope: Scope, next: Random, tokens: number, k: number, rows: readonly number[]): Outputs {
  const matrices = rows.map((n) => matrixOf(scope, next, tokens, n, k));
  const finite = floats(next, tokens * k);
  const infinite = Float32Array.from(finite);
  [infinite[5], infinite[tokens * k - 3]] = [Infinity, NaN];
  productsOfInput(scope, scope.put(infinite), tokens, k, matrices);
  return productsOfInput(scope, scope.put(finite), tokens, k, matrices);
}

function productsOfInput(scope: Scope, x: Handle, tokens: number, k: number, matrices: readonly Matrix[]): Outputs {
  const result: Record<string, Float32Array> = {};
  /** `alone` gives the y of one matrix, `together` all of those that it is given. */
  const compare = (
    name: string,
    alone: (y: Handle, matrix: Matrix) => void,
    weightsOf: (matrix: Matrix) => Handle,
    together: (of: readonly Matrix[], ...products: Products) => void,
  ): void => {
    const outputs = (of: readonly Matrix[]): Handle[] => of.map(({ n }) => scope.room(tokens * n * 4));
    const expected = outputs(matrices);
    matrices.forEach((matrix, i) => alone(expected[i] as Handle, matrix));
    for (let count = 1; count <= matrices.length; count++) {
      const of = matrices.slice(0, count);
      const y = outputs(of);
      together(of, ...productsOf(of, y, weightsOf));
      of.forEach(({ n }, i) => {
        const values = scope.floats(y[i] as Handle, tokens * n);
        const what = `${name}: matrix ${i} of ${count} differs from itself alone`;
        assertSameBits(values, scope.floats(expected[i] as Handle, tokens * n), what);
        result[`${name}, ${i} of ${count}`] = values;
      });
    }
  };
  compare(
    'dense',
    (y, { w, n }) => native.matmul(y, x, w, tokens, n, k),
    ({ w }) => w,
    (_, ...products) => native.matmulFused(x, tokens, k, ...products),
  );
  compare(
    '2:4',
    (y, { packed, n }) => native.matmul24(y, x, packed, tokens, n, k),
    ({ packed }) => packed,
    (_, ...products) => native.matmul24Fused(x, tokens, k, ...products, new Float64Array(0), LONG_PROMPT),
  );
  compare(
    'patched',
    (y, { packed, patches, n }) => native.matmul24Patched(y, x, packed, patches, tokens, n, k),
    ({ packed }) => packed,
    (of, ...products) => {
      const patches = Float64Array.from(of.flatMap((matrix) => [...matrix.patches]));
      native.matmul24Fused(x, tokens, k, ...products, patches, LONG_PROMPT);
    },
  );
  return result;
}

type Products = [Handle, Handle, number, Handle, Handle, number, Handle, Handle, number];

function productsOf(of: readonly Matrix[], y: readonly Handle[], weightsOf: (matrix: Matrix) => Handle): Products {
  return [0, 1, 2].flatMap((i) => {
    const matrix = of[i];
    return matrix === undefined ? [NO_BUFFER, NO_BUFFER, 0] : [y[i] as Handle, weightsOf(matrix), matrix.n];
  }) as Products;
}
