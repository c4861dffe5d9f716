/**
 * A price on leaving the start, during training: scores are pulled back along their way from where they started, decoupled from Adam as weight decay is (arXiv 1711.05101, with the start in place of
 * 0). Groups whose gradients agree from step to step come through, those that wander are held; a rate bound is the same pull at whatever strength keeps it.
 */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { PatternTable } from '../../codec/pattern.js';
import type { Buffers } from './activations.js';
import { TWO_OF_FOUR } from './n-of-m.js';
import type { Parameter } from './optimizer.js';
import { addRates, bitsPerParameter, NO_RATE, rateOf } from './rate.js';

export interface ChurnSettings {
  /** λ: a score that Adam moves the same way at every step comes to rest at 1/λ margins from its start, and flips at one. 0: none. */
  readonly rate: number;
  /** Largest bits per parameter of the mask given its start; undefined: any. */
  readonly maxBits?: number;
  /** Learning rate of step s (from 0) ÷ margin. */
  readonly stepShare: (s: number) => number;
}

export interface PricedMatrix {
  /** Scores at their start. */
  readonly parameter: Parameter;
  /** What they are pulled to; undefined: their start. */
  readonly target?: () => Float32Array;
  /** Canonical codes of the start. */
  readonly prior: Uint8Array;
  /** Canonical codes of the scores as they are now. */
  readonly codes: () => Uint8Array;
}

/** Bytes a score more: the start in bf16. */
export const CHURN_BYTES_PER_SCORE = 2;

/** Halvings in search of the weakest pull that keeps the bound: 1/512 of the way at worst is given up. */
const HALVINGS = 9;

export class ChurnPenalty {
  private readonly starts: readonly Handle[];
  private readonly scratch: Handle;
  /** Whether the scores are as `bound` left them. */
  private bounded = false;

  /** Buffers are the caller's to free. */
  constructor(
    buffers: Buffers,
    private readonly matrices: readonly PricedMatrix[],
    private readonly settings: ChurnSettings,
    private readonly pattern: PatternTable = TWO_OF_FOUR,
  ) {
    this.scratch = buffers.f32(Math.max(0, ...matrices.map(({ parameter }) => parameter.count)));
    this.starts = matrices.map(({ parameter: { values, count }, target }) => {
      const start = buffers.alloc(count * 2);
      if (target) native.write(this.scratch, 0, target());
      native.toBf16(start, target ? this.scratch : values, 'f32', count);
      return start;
    });
  }

  /** Gradients are there: an update follows. */
  beforeUpdate(): void {
    this.bounded = false;
  }

  /** λ's pull for the update that step s (from 0) made. */
  afterStep(s: number): void {
    const pull = Math.min(1, this.settings.rate * this.settings.stepShare(s));
    if (pull === 0) return;
    this.keep(1 - pull);
    this.bounded = false;
  }

  /** Pulls all scores back by the least that keeps the bound; nothing happens within it, so twice is as good as once. */
  bound(): void {
    const { maxBits } = this.settings;
    if (this.bounded || maxBits === undefined) return;
    this.bounded = true;
    if (this.bits() <= maxBits) return;
    let [within, beyond, now] = [0, 1, 1]; // shares of the way from the start
    for (let i = 0; i < HALVINGS; i++) {
      const middle = (within + beyond) / 2;
      this.keep(middle / now);
      now = middle;
      if (this.bits() <= maxBits) within = middle;
      else beyond = middle;
    }
    if (now !== within) this.keep(within / now);
  }

  /** score ← start + share · (score − start). */
  private keep(share: number): void {
    this.matrices.forEach(({ parameter: { values, count } }, i) => {
      native.toF32(this.scratch, this.starts[i] ?? NO_BUFFER, 'bf16', count);
      native.scaleBy(this.scratch, 1 - share, count);
      native.scaleBy(values, share, count);
      native.add(values, this.scratch, count);
    });
  }

  private bits(): number {
    let rate = NO_RATE;
    for (const matrix of this.matrices) rate = addRates(rate, rateOf(matrix.prior, matrix.codes(), this.pattern));
    return bitsPerParameter(rate, this.pattern.m);
  }
}
