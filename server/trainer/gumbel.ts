/**
 * MaskLLM's learner (arXiv 2409.17481, Algorithm 1): six logits a group, soft masks by Gumbel-softmax (Eq. 6, 7) with scale κ and temperature τ annealed linearly,
 * a bonus for weight that stays (Eq. 8), started from a prior mask (Eq. 9, 10). Frozen weights.
 */
import { native, NO_BUFFER, type DType, type Handle } from '../../kernels/index.js';
import { NIBBLE_OF_SYMBOL, nibblesToSymbols, symbolsToNibbles } from '../../codec/pattern.js';
import { Random } from '../engine/random.js';
import { matricesOf, type DenseMatrix, type ModelWeights } from '../engine/weights.js';
import { Buffers } from './activations.js';
import type { EffectiveWeight } from './layer-pass.js';
import type { Learner } from './learner.js';
import { allocateParameter, type Parameter } from './optimizer.js';

export interface GumbelSettings {
  /** Standard deviation of the initial logits. */
  readonly sigma: number;
  /** α of Eq. 10: how far the prior's pattern starts ahead, in standard deviations. */
  readonly priorStrength: number;
  /** κ, first and last step */
  readonly scale: readonly [number, number];
  /** τ, first and last step */
  readonly temperature: readonly [number, number];
  /** λ of Eq. 8 at the first step; falls linearly to 0. */
  readonly regularisation: number;
  readonly seed: number;
  /** Element type of the soft-masked weights. */
  readonly type: DType;
  /** Replaces the generator's noise, (groups, 6) f32: for comparison with another implementation. */
  readonly noise?: (matrix: DenseMatrix, step: number) => Handle;
  /** Replaces the random initial logits, (groups, 6). */
  readonly logits?: (matrix: DenseMatrix) => Float32Array;
}

interface State {
  readonly parameter: Parameter; // (groups, 6)
  readonly masked: Handle; // (rows, cols)
  readonly index: number;
}

interface Now {
  readonly step: number;
  readonly scale: number;
  readonly temperature: number;
  readonly regularisation: number;
}

const PATTERNS = 6;

export class Gumbel implements Learner {
  readonly parameters: readonly Parameter[];
  private readonly buffers = new Buffers();
  private readonly states = new Map<string, State>();
  private readonly matrices: readonly DenseMatrix[];
  private now: Now = { step: 0, scale: 1, temperature: 1, regularisation: 0 };

  constructor(
    weights: ModelWeights,
    prior: ((matrix: DenseMatrix) => Uint8Array) | undefined,
    private readonly settings: GumbelSettings,
  ) {
    const random = new Random(settings.seed);
    this.matrices = matricesOf(weights);
    this.parameters = this.matrices.map((matrix, index) => {
      const { name, rows, cols } = matrix;
      const parameter = allocateParameter(this.buffers, name, ((rows * cols) / 4) * PATTERNS);
      const logits = settings.logits?.(matrix) ?? initialLogits(parameter.count, random, prior?.(matrix), settings);
      native.write(parameter.values, 0, logits);
      const masked = this.buffers.alloc(rows * cols * (settings.type === 'f32' ? 4 : 2));
      this.states.set(name, { parameter, masked, index });
      return parameter;
    });
  }

  get bytes(): number {
    return this.buffers.bytes;
  }

  prepare(step: number, steps: number): number {
    const progress = step / Math.max(1, steps - 1);
    const between = ([from, to]: readonly [number, number]): number => from + (to - from) * progress;
    const { scale, temperature, regularisation, type, seed } = this.settings;
    this.now = {
      step,
      scale: between(scale),
      temperature: between(temperature),
      regularisation: regularisation * (1 - progress),
    };
    let kept = 0;
    for (const matrix of this.matrices) {
      const { parameter, masked, index } = this.state(matrix);
      const groups = parameter.count / PATTERNS;
      const { scale: kappa, temperature: tau } = this.now;
      kept += native.gumbelMask(
        masked,
        type,
        matrix.weight,
        parameter.values,
        this.settings.noise?.(matrix, step) ?? NO_BUFFER,
        2,
        4,
        groups,
        kappa,
        tau,
        seed,
        step,
        index,
      );
    }
    return this.now.regularisation * kept;
  }

  weight(matrix: DenseMatrix): EffectiveWeight {
    return { weight: this.state(matrix).masked, type: this.settings.type };
  }

  accept(matrix: DenseMatrix, dw: Handle): void {
    const { parameter, index } = this.state(matrix);
    const { step, scale, temperature, regularisation } = this.now;
    native.gumbelMaskBackward(
      parameter.gradients,
      dw,
      matrix.weight,
      parameter.values,
      this.settings.noise?.(matrix, step) ?? NO_BUFFER,
      2,
      4,
      parameter.count / PATTERNS,
      scale,
      temperature,
      this.settings.seed,
      step,
      index,
      regularisation,
    );
  }

  nibbles(matrix: DenseMatrix): Uint8Array {
    const { parameter } = this.state(matrix);
    const groups = parameter.count / PATTERNS;
    const symbols = new Uint8Array(groups);
    const handle = native.alloc(groups);
    try {
      native.argmaxPatterns(handle, parameter.values, groups, PATTERNS);
      native.read(handle, 0, symbols);
    } finally {
      native.free(handle);
    }
    return symbolsToNibbles(symbols);
  }

  dispose(): void {
    this.buffers.dispose();
  }

  private state(matrix: DenseMatrix): State {
    return this.states.get(matrix.name) as State;
  }
}

/** π ~ N(0, σ), then Eq. 9, 10: + std(π) · α · (⟨prior, pattern⟩ − 1), whose similarity is 2 for the same pattern, 1 for a swap, 0 else. */
function initialLogits(
  count: number,
  random: Random,
  prior: Uint8Array | undefined,
  { sigma, priorStrength }: GumbelSettings,
): Float32Array {
  const logits = Float32Array.from({ length: count }, () => sigma * normal(random));
  if (!prior) return logits;
  const step = standardDeviation(logits) * priorStrength;
  nibblesToSymbols(prior).forEach((symbol, group) => {
    for (let p = 0; p < PATTERNS; p++) {
      logits[group * PATTERNS + p] = (logits[group * PATTERNS + p] as number) + step * (overlap(symbol, p) - 1);
    }
  });
  return logits;
}

/** Positions that two patterns both keep. */
function overlap(a: number, b: number): number {
  const positions = (symbol: number): [number, number] => {
    const nibble = NIBBLE_OF_SYMBOL[symbol] as number;
    return [nibble & 3, nibble >> 2];
  };
  const [a0, a1] = positions(a);
  return positions(b).filter((position) => position === a0 || position === a1).length;
}

/** A draw from N(0, 1): Box–Muller. */
export function normal(random: Random): number {
  return Math.sqrt(-2 * Math.log(1 - random.uniform())) * Math.cos(2 * Math.PI * random.uniform());
}

function standardDeviation(values: Float32Array): number {
  let [sum, squares] = [0, 0];
  for (const value of values) {
    sum += value;
    squares += value * value;
  }
  const mean = sum / values.length;
  return Math.sqrt(Math.max(0, squares / values.length - mean * mean));
}
