/**
 * Which cells stand in which table of the paper (MaskLLM, arXiv 2409.17481). The rows and columns are the paper's, the model and the text are ours; its own figures for GPT-3 843M (GPT-3 2B in
 * Tables 3 and 5) are printed beside them, to compare shapes, not sizes.
 */
import { maskTrainingDefaults } from '../../server/trainer/defaults.js';
import type { OneShotMethod } from '../../server/trainer/one-shot.js';
import type { MaskTrainingSettings } from '../../server/trainer/types.js';
import type { Budget } from './budget.js';
import type { Cell, FineTunedCell, LearnedCell, MaskCell, OneShotCell, Text } from './cells.js';

/** The mean over `parts` of a cell's perplexity, each on one domain or averaged over all. */
export interface Value {
  readonly column: string;
  readonly parts: readonly { readonly cell: Cell; readonly domain?: string }[];
  readonly paper: string;
}

export interface Row {
  readonly label: string;
  readonly values: readonly Value[];
}

export interface Table {
  /** The paper's number, or a name of our own. */
  readonly id: string;
  readonly title: string;
  readonly rows: readonly Row[];
}

export const TABLE_IDS = ['1', '2', '3', '5', '8', '9', '10', 'curve'] as const;

/** Bits per parameter given the parent; undefined: as many as come. */
const CURVE_BITS = [0.001, 0.003, 0.01, 0.03, undefined] as const;

/** All tables. `domains`: those that masks are learned for. */
export function paperTables(budget: Budget, domains: readonly string[]): Table[] {
  const plan = new Plan(budget, domains);
  return [methods(plan), priors(plan), regularisation(plan), transfer(plan), ...ablations(plan), curve(plan)];
}

/** What the rows are made of. */
class Plan {
  constructor(
    readonly budget: Budget,
    readonly domains: readonly string[],
  ) {}

  oneShot(method: OneShotMethod, text: Text = 'all', update = false): OneShotCell {
    const { calibrationWindows } = this.budget;
    return { kind: 'one-shot', method, text, calibrationWindows, seed: 0, update };
  }

  /** The paper's method on all domains. */
  general(given: Partial<MaskTrainingSettings> = {}, from: MaskCell | null = this.oneShot('sparsegpt')): LearnedCell {
    return this.learned('gumbel', 'all', this.budget.generalSteps, given, from);
  }

  domain(name: string, from: MaskCell, given: Partial<MaskTrainingSettings> = {}): LearnedCell {
    return this.learned('gumbel', { domain: name }, this.budget.domainSteps, given, from);
  }

  learned(
    method: 'gumbel' | 'ste',
    text: Text,
    steps: number,
    given: Partial<MaskTrainingSettings>,
    from: MaskCell | null,
  ): LearnedCell {
    const { batch, seq, gumbelRate } = this.budget;
    const rate = method === 'gumbel' ? { learningRate: gumbelRate } : {};
    const defaults = maskTrainingDefaults(method, text !== 'all');
    const shape = { steps, batch, seq, evaluateEvery: 0, evaluateWindows: 1 };
    const prior = from ? 'sparsegpt' : 'none';
    const settings = { ...defaults, ...shape, ...rate, prior, ...given } as const;
    return { kind: 'learned', text, settings, ...(from ? { from } : {}) };
  }

  fineTuned(mask: MaskCell): FineTunedCell {
    const { fineTuneSteps: steps, batch, seq } = this.budget;
    return { kind: 'fine-tuned', mask, steps, batch, seq };
  }
}

function value(column: string, cell: Cell, paper: string): Value {
  return { column, parts: [{ cell }], paper };
}

function methods(plan: Plan): Table {
  const row = (label: string, cell: Cell, paper: string): Row => ({ label, values: [value('PPL', cell, paper)] });
  const { generalSteps } = plan.budget;
  return {
    id: '1',
    title: '2:4 sparsity with frozen weights (SparseGPT with its weight update)',
    rows: [
      row('dense', { kind: 'dense' }, '12.42'),
      row('magnitude', plan.oneShot('magnitude'), '11500'),
      row('SparseGPT', plan.oneShot('sparsegpt', 'all', true), '38.78'),
      row('Wanda', plan.oneShot('wanda'), '51.37'),
      row('MaskLLM', plan.general(), '15.39'),
      row('straight-through (ours)', plan.learned('ste', 'all', generalSteps, {}, plan.oneShot('sparsegpt')), ''),
    ],
  };
}

function priors(plan: Plan): Table {
  const row = (label: string, method: OneShotMethod, prior: string, learned: string): Row => ({
    label,
    values: [
      value('prior mask', plan.oneShot(method), prior),
      value('learned mask', plan.general({}, plan.oneShot(method)), learned),
    ],
  });
  return {
    id: '2',
    title: 'transfer learning with prior masks: the prior, and what is learned from it',
    rows: [
      row('magnitude', 'magnitude', '11500', '16.07'),
      row('SparseGPT', 'sparsegpt', '79.84', '15.39'),
      row('Wanda', 'wanda', '51.37', '16.39'),
      { label: 'no prior', values: [value('learned mask', plan.general({}, null), '18.62')] },
    ],
  };
}

function regularisation(plan: Plan): Table {
  const without = { regularisation: 0 };
  const pair = (
    label: string,
    make: (given: Partial<MaskTrainingSettings>) => Value['parts'],
    paper: string[],
  ): Row => ({
    label,
    values: [
      { column: 'w/o reg.', parts: make(without), paper: paper[0] ?? '' },
      { column: 'w/ reg.', parts: make({}), paper: paper[1] ?? '' },
    ],
  });
  return {
    id: '3',
    title: 'weight regularisation (Eq. 8) in mask learning, transfer to sub-domains, and sparse fine-tuning',
    rows: [
      pair('mask only', (given) => [{ cell: plan.general(given) }], ['11.59', '11.42']),
      pair(
        'sub-domain',
        (given) => plan.domains.map((domain) => ({ cell: plan.domain(domain, plan.general(given), given), domain })),
        ['7.61', '7.39'],
      ),
      pair('fine-tuning', (given) => [{ cell: plan.fineTuned(plan.general(given)) }], ['10.21', '9.96']),
    ],
  };
}

function transfer(plan: Plan): Table {
  const row = (label: string, cellOf: (domain: string) => Cell, paper: string): Row => ({
    label,
    values: [
      { column: 'avg. task PPL', parts: plan.domains.map((domain) => ({ cell: cellOf(domain), domain })), paper },
    ],
  });
  const { domainSteps, generalSteps } = plan.budget;
  const ours = plan.learned('ste', 'all', generalSteps, {}, plan.oneShot('sparsegpt'));
  return {
    id: '5',
    title: `a mask for each task: general, from scratch, transferred from general (${plan.domains.join(', ')})`,
    rows: [
      row('dense', () => ({ kind: 'dense' }), '7.42'),
      row('general mask', () => plan.general(), '10.61'),
      row('scratch mask', (domain) => plan.domain(domain, plan.oneShot('sparsegpt', { domain })), '7.51'),
      row('transfer mask', (domain) => plan.domain(domain, plan.general()), '7.39'),
      row('straight-through general', () => ours, ''),
      row('straight-through transfer', (domain) => plan.learned('ste', { domain }, domainSteps, {}, ours), ''),
    ],
  };
}

/** Tables 8 to 10: one constant at a time. */
function ablations(plan: Plan): Table[] {
  const row = (label: string, cell: Cell, paper: string): Row => ({ label, values: [value('PPL', cell, paper)] });
  const pairRow = (name: 'scale' | 'temperature', first: number, last: number, paper: string): Row =>
    row(`${first} → ${last}`, plan.general({ [name]: [first, last] }), paper);
  return [
    {
      id: '8',
      title: 'Gumbel softmax temperature τ',
      rows: [
        pairRow('temperature', 1, 0.05, '17.52'),
        pairRow('temperature', 2, 0.05, '16.69'),
        pairRow('temperature', 4, 0.05, '15.39'),
        pairRow('temperature', 10, 0.05, '15.68'),
      ],
    },
    {
      id: '9',
      title: 'logit scaling factor κ',
      rows: [
        pairRow('scale', 1, 5, '5970000'),
        pairRow('scale', 1e2, 5e2, '15.39'),
        pairRow('scale', 1e3, 5e3, '15.59'),
        pairRow('scale', 1e5, 5e5, '24.81'),
      ],
    },
    {
      id: '10',
      title: 'prior strength α',
      rows: [
        [0, '18.62'] as const,
        [1, '23.65'] as const,
        [2, '15.59'] as const,
        [3, '15.39'] as const,
        [5, '15.48'] as const,
      ].map(([alpha, paper]) => row(String(alpha), plan.general({ priorStrength: alpha }), paper)),
    },
  ];
}

/** What a transferred mask gains on its domain, and costs elsewhere, for its bits: `--max-bits` swept. */
function curve(plan: Plan): Table {
  const { generalSteps, domainSteps } = plan.budget;
  const general = plan.learned('ste', 'all', generalSteps, {}, plan.oneShot('sparsegpt'));
  const row = (label: string, cellOf: (domain: string) => Cell): Row => ({
    label,
    values: [
      { column: 'its domain', parts: plan.domains.map((domain) => ({ cell: cellOf(domain), domain })), paper: '' },
      { column: 'all domains', parts: plan.domains.map((domain) => ({ cell: cellOf(domain) })), paper: '' },
    ],
  });
  return {
    id: 'curve',
    title: `perplexity against bits per parameter: straight-through transfers from general (${plan.domains.join(', ')})`,
    rows: [
      row('dense', () => ({ kind: 'dense' })),
      row('general', () => general),
      ...CURVE_BITS.map((maxBits) =>
        row(maxBits === undefined ? 'no bound' : `at most ${maxBits}`, (domain) =>
          plan.learned('ste', { domain }, domainSteps, maxBits === undefined ? {} : { maxBits }, general),
        ),
      ),
    ],
  };
}
