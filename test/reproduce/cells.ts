/** A cell: one model under one mask, named by everything that decides its numbers. Cells that several tables share are computed once. */
import type { OneShotMethod } from '../../server/trainer/one-shot.js';
import { peakLearningRate } from '../../server/trainer/run-learner.js';
import type { MaskTrainingSettings } from '../../server/trainer/types.js';

/** Text of every domain, or of one. */
export type Text = 'all' | { readonly domain: string };

export interface DenseCell {
  readonly kind: 'dense';
}

export interface OneShotCell {
  readonly kind: 'one-shot';
  readonly method: OneShotMethod;
  readonly text: Text;
  readonly calibrationWindows: number;
  readonly seed: number;
  /** SparseGPT: with its weight update. */
  readonly update: boolean;
}

export interface LearnedCell {
  readonly kind: 'learned';
  readonly text: Text;
  readonly settings: MaskTrainingSettings;
  /** The mask that it starts from; undefined: random logits. */
  readonly from?: MaskCell;
}

/** Sparse fine-tuning: a mask is fixed, the weights that it keeps are tuned. */
export interface FineTunedCell {
  readonly kind: 'fine-tuned';
  readonly mask: MaskCell;
  readonly steps: number;
  readonly batch: number;
  readonly seq: number;
}

export type MaskCell = OneShotCell | LearnedCell;
export type Cell = DenseCell | MaskCell | FineTunedCell;

export interface CellResult {
  /** By domain, on the first windows of its valid text. */
  readonly perplexities: Readonly<Record<string, number>>;
  /** Learned masks: groups that differ from where it started, and what they cost. */
  readonly changed?: number;
  readonly bitsPerParameter?: number;
  readonly seconds: number;
}

/** One line with every setting that a person would ask for. */
export function describe(cell: Cell): string {
  switch (cell.kind) {
    case 'dense':
      return 'no mask';
    case 'one-shot':
      return oneShotLine(cell);
    case 'learned':
      return learnedLine(cell);
    case 'fine-tuned':
      return `kept weights, lm loss, ${cell.steps} steps of ${cell.batch} × ${cell.seq}, under: ${describe(cell.mask)}`;
  }
}

function oneShotLine({ method, text, calibrationWindows, update, seed }: OneShotCell): string {
  if (method === 'magnitude') return 'magnitude';
  return `${method}${update ? ' with weight update' : ''}, ${calibrationWindows} windows of ${textName(text)}, seed ${seed}`;
}

function learnedLine({ text, settings, from }: LearnedCell): string {
  const { method, loss, steps, batch, seq, seed, scale, temperature, priorStrength, regularisation } = settings;
  const constants =
    method === 'gumbel'
      ? ` κ ${scale.join('→')} τ ${temperature.join('→')} α ${priorStrength} λ ${regularisation}`
      : ` margin ${settings.margin}${settings.maxBits === undefined ? '' : ` at most ${settings.maxBits} bits/param`}`;
  const rate = peakLearningRate(settings).toPrecision(2);
  const start = from ? `from (${describe(from)})` : 'from random logits';
  return `${method} ${loss}, lr ${rate},${constants}, ${steps} steps of ${batch} × ${seq} of ${textName(text)}, seed ${seed}, ${start}`;
}

function textName(text: Text): string {
  return text === 'all' ? 'all domains' : text.domain;
}
