/**
 * MaskLLM's learner (arXiv 2409.17481, Algorithm 1): a logit for each of the P patterns of a group (2:4: six), soft masks by Gumbel-softmax (Eq. 6, 7) with scale κ and temperature τ annealed linearly,
 * a bonus for weight that stays (Eq. 8), started from a prior mask (Eq. 9, 10). Frozen weights.
 */
import { native, NO_BUFFER, type DType, type Handle } from '../../kernels/index.js';
import type { PatternTable } from '../../codec/pattern.js';
import { Random } from '../engine/random.js';
import { matricesOf, type DenseMatrix, type ModelWeights } from '../engine/weights.js';
import { Buffers } from './activations.js';
import { ChurnPenalty, type ChurnSettings, type PricedMatrix } from './churn-penalty.js';
import type { EffectiveWeight } from './layer-pass.js';
import type { Learner } from './learner.js';
import { codesOf, symbolsOf, TWO_OF_FOUR } from './n-of-m.js';
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
  /** Undefined: 2:4. */
  readonly pattern?: PatternTable;
  /** What leaving the prior's pattern costs, see churn-penalty.ts: logits are pulled to those that the prior alone would give, without noise. Needs a prior. */
  readonly churn?: ChurnSettings;
  /** Element type of the soft-masked weights. */
  readonly type: DType;
  /** Whether the optimizer's β1 is above 0. */
  readonly momentum: boolean;
  /** Replaces the generator's noise, (groups, P) f32: for comparison with another implementation. */
  readonly noise?: (matrix: DenseMatrix, step: number) => Handle;
  /** Replaces the random initial logits, (groups, P). */
  readonly logits?: (matrix: DenseMatrix) => Float32Array;
}

/** That the largest probability is averaged over, of each matrix. */
const SAMPLED_GROUPS = 8192;

interface State {
  readonly parameter: Parameter; // (groups, P)
  readonly masked: Handle; // (rows, cols)
  readonly index: number;
}

interface Now {
  readonly step: number;
  readonly scale: number;
  readonly temperature: number;
  readonly regularisation: number;
}

export class Gumbel implements Learner {
  readonly parameters: readonly Parameter[];
  private readonly buffers = new Buffers();
  private readonly states = new Map<string, State>();
  private readonly matrices: readonly DenseMatrix[];
  private readonly pattern: PatternTable;
  private readonly penalty: ChurnPenalty | undefined;
  private now: Now = { step: 0, scale: 1, temperature: 1, regularisation: 0 };

  constructor(
    weights: ModelWeights,
    prior: ((matrix: DenseMatrix) => Uint8Array) | undefined,
    private readonly settings: GumbelSettings,
  ) {
    const random = new Random(settings.seed);
    const pattern = settings.pattern ?? TWO_OF_FOUR;
    this.pattern = pattern;
    this.matrices = matricesOf(weights);
    const priced: PricedMatrix[] = [];
    this.parameters = this.matrices.map((matrix, index) => {
      const { name, rows, cols } = matrix;
      const parameter = allocateParameter(
        this.buffers,
        name,
        ((rows * cols) / pattern.m) * pattern.count,
        settings.momentum,
      );
      const codes = prior?.(matrix);
      const { logits, target } = initialLogits(parameter.count, random, pattern, settings, codes);
      native.write(parameter.values, 0, settings.logits?.(matrix) ?? logits);
      if (codes) priced.push({ parameter, prior: codes, target, codes: () => this.codes(matrix) });
      const masked = this.buffers.alloc(rows * cols * (settings.type === 'f32' ? 4 : 2));
      this.states.set(name, { parameter, masked, index });
      return parameter;
    });
    this.penalty = settings.churn && new ChurnPenalty(this.buffers, priced, settings.churn, pattern);
  }

  get bytes(): number {
    return this.buffers.bytes;
  }

  /** The penalty on the step before comes first, as in StraightThrough. */
  prepare(step: number, steps: number): number {
    if (step > 0) this.penalty?.afterStep(step - 1);
    this.penalty?.bound();
    const progress = step / Math.max(1, steps - 1);
    const between = ([from, to]: readonly [number, number]): number => from + (to - from) * progress;
    const { scale, temperature, regularisation, type, seed } = this.settings;
    const { n, m, count } = this.pattern;
    this.now = {
      step,
      scale: between(scale),
      temperature: between(temperature),
      regularisation: regularisation * (1 - progress),
    };
    let kept = 0;
    for (const matrix of this.matrices) {
      const { parameter, masked, index } = this.state(matrix);
      const groups = parameter.count / count;
      const { scale: kappa, temperature: tau } = this.now;
      kept += native.gumbelMask(
        masked,
        type,
        matrix.weight,
        parameter.values,
        this.settings.noise?.(matrix, step) ?? NO_BUFFER,
        n,
        m,
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
    this.penalty?.beforeUpdate();
    const { parameter, index } = this.state(matrix);
    const { step, scale, temperature, regularisation } = this.now;
    const { n, m, count } = this.pattern;
    native.gumbelMaskBackward(
      parameter.gradients,
      dw,
      matrix.weight,
      parameter.values,
      this.settings.noise?.(matrix, step) ?? NO_BUFFER,
      n,
      m,
      parameter.count / count,
      scale,
      temperature,
      this.settings.seed,
      step,
      index,
      regularisation,
    );
  }

  nibbles(matrix: DenseMatrix): Uint8Array {
    this.penalty?.bound();
    return this.codes(matrix);
  }

  /** Of softmax(π·κ), before the noise (Eq. 6), at the last step's κ; over SAMPLED_GROUPS of a matrix at most, evenly spread. */
  maxProbability(): number {
    let [sum, seen] = [0, 0];
    for (const matrix of this.matrices) {
      const { parameter } = this.state(matrix);
      const logits = new Float32Array(parameter.count);
      native.read(parameter.values, 0, logits);
      const groups = parameter.count / this.pattern.count;
      const stride = Math.ceil(groups / SAMPLED_GROUPS);
      for (let group = 0; group < groups; group += stride, seen++) {
        const first = group * this.pattern.count;
        sum += largestProbability(logits.subarray(first, first + this.pattern.count), this.now.scale);
      }
    }
    return sum / seen;
  }

  dispose(): void {
    this.buffers.dispose();
  }

  private codes(matrix: DenseMatrix): Uint8Array {
    const { parameter } = this.state(matrix);
    const { count } = this.pattern;
    const groups = parameter.count / count;
    const symbols = new Uint8Array(groups);
    const handle = native.alloc(groups);
    try {
      native.argmaxPatterns(handle, parameter.values, groups, count);
      native.read(handle, 0, symbols);
    } finally {
      native.free(handle);
    }
    return codesOf(this.pattern, symbols);
  }

  private state(matrix: DenseMatrix): State {
    return this.states.get(matrix.name) as State;
  }
}

function largestProbability(logits: Float32Array, scale: number): number {
  const largest = Math.max(...logits);
  return 1 / logits.reduce((sum, logit) => sum + Math.exp(scale * (logit - largest)), 0);
}

/** π ~ N(0, σ), then Eq. 9, 10: + std(π) · α · (⟨prior, pattern⟩ − n²/m), whose similarity is n for the same pattern and n²/m on average over all of them. `target`: without π. */
function initialLogits(
  count: number,
  random: Random,
  pattern: PatternTable,
  { sigma, priorStrength }: GumbelSettings,
  prior?: Uint8Array,
): { readonly logits: Float32Array; readonly target: () => Float32Array } {
  const logits = Float32Array.from({ length: count }, () => sigma * normal(random));
  if (!prior) return { logits, target: () => new Float32Array(count) };
  const step = standardDeviation(logits) * priorStrength;
  const ahead = similarities(pattern).map((row) => row.map((similarity) => step * similarity));
  addPrior(logits, ahead, symbolsOf(pattern, prior));
  return { logits, target: () => addPrior(new Float32Array(count), ahead, symbolsOf(pattern, prior)) };
}

/** Adds to the logits of each group what its symbol puts each pattern ahead by. */
function addPrior(logits: Float32Array, ahead: readonly (readonly number[])[], symbols: Uint8Array): Float32Array {
  symbols.forEach((symbol, group) => {
    const row = ahead[symbol] as readonly number[];
    const first = group * row.length;
    for (let p = 0; p < row.length; p++) logits[first + p] = (logits[first + p] as number) + (row[p] as number);
  });
  return logits;
}

/** [a][b]: positions that both keep, less what two patterns have in common on average. */
function similarities({ n, m, positions }: PatternTable): number[][] {
  const common = (a: readonly number[], b: readonly number[]): number =>
    a.filter((position) => b.includes(position)).length;
  return positions.map((a) => positions.map((b) => common(a, b) - (n * n) / m));
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
