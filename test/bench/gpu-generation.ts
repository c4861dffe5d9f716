/** Whole answers of a LLaMA-2-7B-shaped model on a GPU, one sequence at a time, dense, dense through cuBLASLt and 2:4: the lengths of the paper's Table 16. Random weights. */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import { GREEDY } from '../../server/engine/draws.js';
import { DEFAULT_KV_TYPE, KvCache } from '../../server/engine/kv-cache.js';
import { layerShapes } from '../../server/engine/linear-shapes.js';
import { Forward } from '../../server/engine/llama.js';
import type { ModelConfig } from '../../server/engine/model-config.js';
import type { TaskWeights } from '../../server/engine/types.js';
import { matricesOf, type DenseMatrix, type LayerWeights, type ModelWeights } from '../../server/engine/weights.js';
import { randomNibbles, randomWeights, synchronizedMs } from './gpu-layers.js';

export type GenerationShape = Pick<
  ModelConfig,
  'layers' | 'hidden' | 'ffn' | 'heads' | 'kvHeads' | 'headDim' | 'vocab'
>;

/** arXiv 2307.09288. */
export const LLAMA_2_7B: GenerationShape = {
  layers: 32,
  hidden: 4096,
  ffn: 11008,
  heads: 32,
  kvHeads: 32,
  headDim: 128,
  vocab: 32000,
};

/** Tokens of the prompt and of the answer. */
export const LENGTHS = [
  [128, 128],
  [128, 2048],
  [2048, 128],
  [2048, 2048],
] as const;
/** Answered before anything is timed: kernels are chosen, a step is recorded. */
const WARM_TOKENS = 4;

export interface GenerationFigures {
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** Tokens of the answer in a second, the prompt's time included. */
  readonly denseTokensPerSecond: number;
  /** The same engine with its dense products, of one token too, by cuBLASLt: activations are rounded for it once an input. null: it is not there. */
  readonly cublasLtTokensPerSecond: number | null;
  readonly sparseTokensPerSecond: number;
  readonly sparseOverDense: number;
  readonly sparseOverCublasLt: number | null;
}

/** Throws RangeError where the model and its task don't fit. */
export function measureGeneration(
  cublasLt: boolean,
  shape: GenerationShape = LLAMA_2_7B,
  lengths: readonly (readonly [number, number])[] = LENGTHS,
): GenerationFigures[] {
  const owned: Handle[] = [];
  const keep = (handle: Handle): Handle => {
    owned.push(handle);
    return handle;
  };
  try {
    const context = Math.max(...lengths.map(([input, output]) => input + output)) + WARM_TOKENS;
    const config = configOf(shape, context);
    const weights = weightsOf(shape, keep);
    const task = taskOf(weights, keep);
    const forward = new Forward(config, weights, context);
    // What it records has cuBLASLt's products.
    const ofCublasLt = new Forward(config, weights, context);
    try {
      return lengths.map(([inputTokens, outputTokens]) => {
        const perSecond = (by: Forward, of: TaskWeights | null): number =>
          outputTokens / (answerMs(by, config, of, inputTokens, outputTokens) / 1000);
        const [dense, sparse] = [perSecond(forward, null), perSecond(forward, task)];
        const library = cublasLt ? throughCublasLt(() => perSecond(ofCublasLt, null)) : null;
        return {
          inputTokens,
          outputTokens,
          denseTokensPerSecond: dense,
          cublasLtTokensPerSecond: library,
          sparseTokensPerSecond: sparse,
          sparseOverDense: sparse / dense,
          sparseOverCublasLt: library === null ? null : sparse / library,
        };
      });
    } finally {
      forward.dispose();
      ofCublasLt.dispose();
    }
  } finally {
    for (const handle of owned) native.free(handle);
  }
}

/** Dense products go by `linear`, which asks cuBLASLt for any number of tokens, while `body` runs. */
function throughCublasLt<T>(body: () => T): T {
  const { matmul, matmulFused } = native;
  const product = (y: Handle, x: Handle, w: Handle, tokens: number, n: number, k: number): void => {
    if (y !== NO_BUFFER) native.linear(y, x, w, 'bf16', tokens, n, k);
  };
  const fused: typeof matmulFused = (x, tokens, k, ya, wa, na, yb, wb, nb, yc, wc, nc) => {
    product(ya, x, wa, tokens, na, k);
    product(yb, x, wb, tokens, nb, k);
    product(yc, x, wc, tokens, nc, k);
  };
  Object.assign(native, { matmul: product, matmulFused: fused });
  try {
    return body();
  } finally {
    Object.assign(native, { matmul, matmulFused });
  }
}

function answerMs(
  forward: Forward,
  config: ModelConfig,
  task: TaskWeights | null,
  input: number,
  output: number,
): number {
  const answer = (tokens: number): void => {
    const cache = new KvCache(config, input + tokens, DEFAULT_KV_TYPE);
    try {
      for (let done = 0, chunk = 0; done < input; done += chunk) {
        chunk = Math.min(forward.chunkTokens, input - done);
        forward.run(new Int32Array(chunk).fill(1), cache, task);
        if (done + chunk === input) forward.head(chunk - 1, 1);
      }
      let [id] = forward.sample([GREEDY]);
      for (let i = 1; i < tokens; i++) [id] = forward.decode([{ id: id as number, cache, task }]);
    } finally {
      cache.dispose();
    }
  };
  answer(WARM_TOKENS);
  return synchronizedMs(() => answer(output));
}

function configOf(shape: GenerationShape, context: number): ModelConfig {
  return {
    ...shape,
    architecture: 'LlamaForCausalLM',
    context,
    normEps: 1e-5,
    rope: { theta: 10000, scaling: { kind: 'none' } },
    tiedHead: false,
    qkNorm: false,
    bias: { qkv: false, o: false, mlp: false },
    windows: new Array<number>(shape.layers).fill(0),
    bosId: undefined,
    eosIds: [],
  };
}

function weightsOf(shape: GenerationShape, keep: (handle: Handle) => Handle): ModelWeights {
  const { hidden, vocab } = shape;
  const ones = keep(native.alloc(hidden * 4));
  native.write(ones, 0, new Float32Array(hidden).fill(1));
  const layers = Array.from({ length: shape.layers }, (_, layer): LayerWeights => {
    const roles = Object.entries(layerShapes(shape)).map(([role, { name, rows, cols }]): [string, DenseMatrix] => {
      const weight = keep(randomWeights(rows * cols));
      return [role, { name: `model.layers.${layer}.${name}.weight`, rows, cols, weight, bias: NO_BUFFER }];
    });
    const norms = { inputNorm: ones, postNorm: ones, qNorm: NO_BUFFER, kNorm: NO_BUFFER };
    return { ...norms, ...(Object.fromEntries(roles) as Pick<LayerWeights, keyof ReturnType<typeof layerShapes>>) };
  });
  const embedding = keep(randomWeights(vocab * hidden));
  const head = keep(randomWeights(vocab * hidden));
  return { embedding, layers, norm: ones, head, parameters: 0, dispose: () => undefined };
}

/** Random masks of all linear layers. */
function taskOf(weights: ModelWeights, keep: (handle: Handle) => Handle): TaskWeights {
  const matrices = matricesOf(weights).map(({ name, rows, cols, weight }) => {
    const packed = keep(native.alloc(native.packedBytes(rows, cols)));
    const meta = native.alloc((rows * cols) / 8);
    native.write(meta, 0, randomNibbles(rows * cols, 1));
    native.compress24(packed, weight, meta, rows, cols);
    native.free(meta);
    return [name, { packed }] as const;
  });
  return { digest: '', matrices: Object.fromEntries(matrices), bytes: 0 };
}

export function generationTable(figures: readonly GenerationFigures[]): string {
  const rows = figures.map((of) => {
    const library =
      of.cublasLtTokensPerSecond === null || of.sparseOverCublasLt === null
        ? ''
        : ` · ${of.sparseOverCublasLt.toFixed(2)}× cuBLASLt's ${of.cublasLtTokensPerSecond.toFixed(1)}`;
    return (
      `  ${String(of.inputTokens).padStart(4)} in, ${String(of.outputTokens).padStart(4)} out: dense ${of.denseTokensPerSecond.toFixed(1)} · ` +
      `2:4 ${of.sparseTokensPerSecond.toFixed(1)} tokens/s · ${of.sparseOverDense.toFixed(2)}×${library} (paper, A6000: 1.36 to 1.41×)`
    );
  });
  return ['  whole answers, one sequence, LLaMA-2-7B:', ...rows].join('\n');
}
