/** The constants of mask learning on the command line: what each does, where the paper (arXiv 2409.17481) defines it, and its default by method. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { DEFAULT_METHOD, LARGEST_STEP, maskTrainingDefaults, REFINE_ROUNDS } from '../../server/trainer/defaults.js';
import type {
  MaskPattern,
  MaskTrainingSettings,
  PriorMethod,
  TrainLoss,
  TrainMethod,
} from '../../server/trainer/types.js';
import { UsageError } from './usage-error.js';
import { integer, number } from './numbers.js';
import type { TextOptions } from './text-options.js';

type Constant = keyof MaskTrainingSettings;

const METHODS: readonly TrainMethod[] = ['ste', 'gumbel'];
const MASK_PATTERNS: readonly MaskPattern[] = ['2:4', '1:4', '4:8'];
const LOSSES: readonly (TrainLoss | 'auto')[] = ['auto', 'lm', 'kl', 'mix'];
const PRIORS: readonly PriorMethod[] = ['magnitude', 'wanda', 'sparsegpt', 'none'];
const STEPS = integer(1);
const POSITIVE = number(Number.MIN_VALUE, 1e9);

/** Flag, what it does, which constant, how it is read. */
const CONSTANTS: readonly (readonly [
  flags: string,
  text: string,
  constant: Constant,
  parse: (text: string) => unknown,
])[] = [
  ['--steps <n>', 'optimizer steps', 'steps', STEPS],
  ['--batch <n>', 'sequences a step', 'batch', integer(1, 65536)],
  ['--seq <n>', 'tokens of a sequence', 'seq', integer(8, 1 << 20)],
  ['--seed <n>', 'batches, split and noise: same seed, same mask', 'seed', integer(0, 2 ** 32 - 1)],
  [
    '--travel <n>',
    `Σ of the steps' learning rates ÷ the prior's margin: how far logits can go, by at most ${LARGEST_STEP} margins a step`,
    'travel',
    POSITIVE,
  ],
  ['--lr <rate>', 'peak learning rate, in place of --travel (Table 7)', 'learningRate', POSITIVE],
  ['--warmup <steps>', 'steps of linear warm-up', 'warmup', integer(0)],
  ['--floor <share>', 'share of the peak that the cosine ends at', 'floor', number(0, 1)],
  ['--beta1 <b>', 'AdamW: decay of the first moment (Table 7)', 'beta1', number(0, 0.999999)],
  ['--beta2 <b>', 'AdamW: decay of the second moment (Table 7)', 'beta2', number(0, 0.999999)],
  ['--epsilon <e>', 'AdamW: ε (Table 7)', 'epsilon', POSITIVE],
  [
    '--relative-epsilon <r>',
    "AdamW: adds this share of the step's root mean square gradient to ε, so that groups whose gradient is noise stay",
    'relativeEpsilon',
    number(0, 1e6),
  ],
  [
    '--curvature <c>',
    "ste: how much a group's curvature weighs against its gain; 1: as the gradients' squares say, 0: not at all",
    'curvature',
    number(0, 1e6),
  ],
  ['--weight-decay <w>', 'AdamW: decay of the logits (Table 7)', 'weightDecay', number(0, 1)],
  ['--clip <norm>', 'largest joint norm of the gradients; 0: none (Table 7)', 'clip', number(0, 1e9)],
  [
    '--refine [rounds]',
    "refine the one-shot prior by swaps that lower each layer's output error on the training text, at most so often over each row",
    'refine',
    integer(0, 1000),
  ],
  ['--margin <m>', 'ste: scores start at ± this around the prior', 'margin', POSITIVE],
  [
    '--rate <l>',
    'λ of a pull back to the start (gumbel: to the pattern of the prior) after each step: at 1 even a score that always moves the same way stays',
    'rate',
    number(0, 1e6),
  ],
  [
    '--max-bits <b>',
    'largest bits per parameter of the mask given its start: the pull is as strong as it takes',
    'maxBits',
    number(0, 1),
  ],
  [
    '--guard-share <s>',
    "share of a step's sequences that are text of --guard, with KL as their loss; 0: only look at it",
    'guardShare',
    number(0, 0.9),
  ],
  ['--sigma <s>', 'gumbel: logits start as N(0, σ)', 'sigma', POSITIVE],
  [
    '--prior-strength <a>',
    "gumbel: α, how far the prior's pattern starts ahead, in σ (Eq. 10)",
    'priorStrength',
    number(0, 1e6),
  ],
  ['--scale <first:last>', 'gumbel: κ of softmax((κ·π + g)/τ), linear (Eq. 6, 7; Table 9)', 'scale', pair],
  ['--temperature <first:last>', 'gumbel: τ of the same, linear (Eq. 6, 7; Table 8)', 'temperature', pair],
  [
    '--regularisation <l>',
    'gumbel: λ of loss − λ·Σ‖W⊙M̃‖², falls linearly to 0 (Eq. 8)',
    'regularisation',
    number(0, 1e6),
  ],
  [
    '--evaluate-every <steps>',
    'steps between looks at held-out text, of which the best mask is kept; 0: only at the end',
    'evaluateEvery',
    integer(0),
  ],
  [
    '--evaluate-windows <n>',
    'windows of --seq held-out tokens that a look scores, for each text',
    'evaluateWindows',
    integer(1),
  ],
];

/** What a person gave: every constant may be missing. */
export type GivenConstants = Partial<
  Omit<MaskTrainingSettings, 'method' | 'learningRate' | 'bos' | 'separator'> & { readonly lr: number }
>;

export function addMaskTrainingOptions(command: Command): Command {
  command
    .addOption(
      new Option(
        '--method <method>',
        'ste: straight-through top-n on a score for each weight (14 bytes a weight); gumbel: the paper, a logit for each pattern of a group, sampled (26 bytes a weight)',
      )
        .choices(METHODS)
        .default(DEFAULT_METHOD),
    )
    .addOption(
      new Option(
        '--pattern <n:m>',
        'weights kept of every so many; servers serve 2:4, the others are for --local and "eval --local": masked dense (gumbel: 1:4 18, 4:8 142 bytes a weight) (default: 2:4)',
      ).choices(MASK_PATTERNS),
    )
    .addOption(
      new Option(
        '--loss <loss>',
        `lm: next token; kl: KL to the dense model, or to --teacher; mix: half of each; auto: mix, or lm where the teacher is not clearly better on held-out text than the mask to start from (default: ste ${of('ste', 'loss')}, with --from ${of('ste', 'loss', true)}; gumbel ${of('gumbel', 'loss')})`,
      ).choices(LOSSES),
    )
    .addOption(
      new Option(
        '--prior <method>',
        `the mask to start from, without --from: pruned on the training text (Eq. 9, 10; none: gumbel alone) (default: ${of('ste', 'prior')})`,
      ).choices(PRIORS),
    )
    .option(
      '--keep-dense <names...>',
      'layers that no mask covers: last:1, first:2, an index, a name such as model.layers.5, or a matrix such as model.layers.5.mlp.down_proj (Table 15); the output layer is always dense',
    );
  for (const [flags, text, constant, parse] of CONSTANTS) {
    const option = new Option(flags, `${text} (${defaultsOf(constant)})`).argParser(parse);
    command.addOption(option.optional ? option.preset(String(REFINE_ROUNDS)) : option);
  }
  return command;
}

/** Defaults of the method, overridden by what was given. `transfer`: it starts from another task's mask. */
export function maskTrainingSettings(
  given: GivenConstants & TextOptions & { readonly method: TrainMethod },
  transfer: boolean,
): MaskTrainingSettings {
  if (transfer && (given.refine ?? 0) > 0) {
    throw new UsageError('expected --refine without --from: it refines a one-shot prior, not the mask of a task');
  }
  const defaults = maskTrainingDefaults(given.method, transfer);
  const constants = [
    'loss',
    'pattern',
    'prior',
    'keepDense',
    'separator',
    'bos',
    ...CONSTANTS.map(([, , constant]) => constant),
  ] as const;
  const chosen = constants.flatMap((constant): [Constant, unknown][] => {
    const value = constant === 'learningRate' ? given.lr : given[constant];
    return value === undefined ? [] : [[constant, value]];
  });
  // a travel that was asked for wins over a learning rate that was not
  const settings = { ...defaults, ...(Object.fromEntries(chosen) as Partial<MaskTrainingSettings>) };
  return given.travel !== undefined && given.lr === undefined ? { ...settings, learningRate: undefined } : settings;
}

function defaultsOf(constant: Constant): string {
  const values = [of('ste', constant), of('ste', constant, true), of('gumbel', constant)] as const;
  const [ste, transferred, gumbel] = values;
  if (new Set(values).size === 1) return `default: ${ste}`;
  if (ste !== transferred && gumbel === ste) return `default: ${ste}, with --from ${transferred}`;
  if (constant === 'learningRate') return `default: ste by --travel, gumbel ${gumbel}`;
  return `default: ste ${ste}, gumbel ${gumbel}`;
}

function of(method: TrainMethod, constant: Constant, transfer = false): string {
  const value = maskTrainingDefaults(method, transfer)[constant];
  return Array.isArray(value) ? value.join(':') : String(value ?? 'none');
}

/** `100:500` → [100, 500]; one number is both. */
function pair(text: string): [number, number] {
  const values = text.split(':').map(Number);
  const [first = NaN, last = first] = values;
  if (values.length <= 2 && first > 0 && last > 0 && text.trim() !== '') return [first, last];
  throw new InvalidArgumentError('Expected two positive numbers such as 100:500.');
}
