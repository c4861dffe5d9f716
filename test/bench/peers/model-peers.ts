/** One model in every engine: first whether they compute the same, then how fast, in alternating runs. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeMaskSet } from '../../../codec/encode.js';
import { loadModel } from '../../../server/engine/model.js';
import { median } from '../forward.js';
import { randomMask } from '../random-mask.js';
import { distance, sameGreedy } from './agreement.js';
import { type Contender, contenders, type ContenderOptions, DENSE, exported, MASKED, ONNX } from './contenders.js';
import { MASK_SEED } from './engine-maskserve.js';
import { EngineProcess } from './engine-process.js';
import type { Clock, PassAnswer } from './protocol.js';

/** What a pass of so many sequences, so deep, tells: tokens a second of reading the prompt, of decoding, or both. */
const PASSES = [
  { sequences: 1, depth: 8, steps: 0, prefill: 'prefill 8' },
  { sequences: 1, depth: 64, steps: 24, prefill: 'prefill 64', decode: 'decode 1' },
  { sequences: 1, depth: 512, steps: 12, prefill: 'prefill 512', decode: 'decode 1 after 512' },
  { sequences: 8, depth: 64, steps: 12, decode: 'decode 8' },
] as const;

export const MEASURES = [
  'decode 1',
  'decode 1 after 512',
  'decode 8',
  'prefill 8',
  'prefill 64',
  'prefill 512',
] as const;
export type Measure = (typeof MEASURES)[number];

const SEQUENCES = 8;
const POSITIONS = 768;
/** Of the comparison of logits: a prompt and steps of the last of these sequences. */
const CHECKED = { depth: 40, steps: 8 };

export interface ContenderFigures {
  readonly label: string;
  readonly engine: string;
  /** From fp32's logits, alone and as the last of eight sequences. */
  readonly distance: readonly number[];
  /** Rows of 18 whose likeliest token is fp32's. */
  readonly sameGreedy: number;
  /** Median tokens a second. */
  readonly rates: Readonly<Record<Measure, number>>;
  /** maskserve's 2:4 ÷ this one: medians of the rounds' ratios. */
  readonly maskedOver: Readonly<Record<Measure, number>>;
}

export interface ModelFigures {
  readonly model: string;
  readonly threads: number;
  readonly clock: Clock;
  readonly contenders: readonly ContenderFigures[];
  readonly absent: readonly { readonly label: string; readonly reason: string }[];
}

export interface ModelPeersOptions {
  readonly name: string;
  readonly model: string;
  readonly scratch: string;
  readonly threads: readonly number[];
  readonly runs: number;
  readonly clock: Clock;
  readonly python: string | undefined;
  readonly ggufs: ContenderOptions['ggufs'];
  readonly quantized: boolean;
  readonly onStage: (stage: string) => void;
}

type Rates = Readonly<Record<Measure, number>>;

interface Started {
  readonly contender: Contender;
  readonly engine: EngineProcess;
  readonly name: string;
}

/** Figures of each number of threads. Throws if an engine computes something else: its speed would mean nothing. */
export async function* measureModel(options: ModelPeersOptions): AsyncGenerator<ModelFigures> {
  const { name, scratch, onStage } = options;
  mkdirSync(scratch, { recursive: true });
  onStage(`${name}: files for the peers`);
  const all = contenders({ ...options, sequences: SEQUENCES, positions: POSITIONS });
  const references = await referenceLogits(options, all);
  for (const threads of options.threads) {
    const { started, absent } = await startAll(all, threads, options);
    try {
      onStage(`${name}: logits, ${threads} threads`);
      const agreed: Agreement[] = [];
      for (const each of started) agreed.push(await checked(each, references));
      const rounds: Rates[][] = [];
      for (let round = 0; round < options.runs; round++) {
        onStage(`${name}: ${threads} threads, round ${round + 1} of ${options.runs}`);
        rounds.push(await measureRound(started));
      }
      const masked = started.findIndex(({ contender }) => contender.label === MASKED);
      const figures = started.map(({ contender, name: engine }, i) => {
        const over = (round: Rates[], what: Measure): number =>
          (round[masked] as Rates)[what] / (round[i] as Rates)[what];
        const agreement = agreed[i] as Agreement;
        return {
          label: contender.label,
          engine,
          ...agreement,
          rates: each((what) => median(rounds.map((round) => (round[i] as Rates)[what]))),
          maskedOver: each((what) => median(rounds.map((round) => over(round, what)))),
        };
      });
      yield { model: name, threads, clock: options.clock, contenders: figures, absent };
    } finally {
      await Promise.all(started.map(({ engine }) => engine.stop()));
    }
  }
}

async function startAll(
  all: readonly Contender[],
  threads: number,
  { name, python, clock, onStage }: ModelPeersOptions,
): Promise<{ started: Started[]; absent: ModelFigures['absent'] }> {
  const started: Started[] = [];
  const absent: { label: string; reason: string }[] = [];
  for (const contender of all) {
    onStage(`${name}: starting ${contender.label}, ${threads} threads`);
    try {
      if (contender.absent !== undefined) throw new Error(contender.absent);
      const { engine, name } = await EngineProcess.start({ ...contender.settings, threads, clock }, python);
      started.push({ contender, engine, name });
    } catch (error) {
      absent.push({ label: contender.label, reason: (error as Error).message });
    }
  }
  return { started, absent };
}

interface References {
  readonly dense: readonly Float32Array[][];
  readonly masked: readonly Float32Array[][];
}

/** Of one sequence alone, and of the last of eight. */
async function askLogits(engine: EngineProcess): Promise<Float32Array[][]> {
  return [await engine.logits({ sequences: 1, ...CHECKED }), await engine.logits({ sequences: SEQUENCES, ...CHECKED })];
}

/** fp32's: onnxruntime's of the exported model, dense and masked, or where it is absent those of maskserve with fp32 activations. */
async function referenceLogits(options: ModelPeersOptions, all: readonly Contender[]): Promise<References> {
  const onnx = all.find(({ label }) => label === ONNX) as Contender;
  const threads = Math.max(...options.threads);
  const once = async (settings: Contender['settings']): Promise<Float32Array[][]> => {
    const { engine } = await EngineProcess.start({ ...settings, threads, clock: 'wall' });
    try {
      return await askLogits(engine);
    } finally {
      await engine.stop();
    }
  };
  options.onStage(`${options.name}: fp32 logits`);
  if (onnx.absent !== undefined) {
    const precise = { ...(all.find(({ label }) => label === DENSE) as Contender).settings, precise: true };
    return { dense: await once(precise), masked: await once({ ...precise, masked: true }) };
  }
  const container = join(options.scratch, 'random.mask');
  const model = loadModel(options.model);
  writeFileSync(container, encodeMaskSet(randomMask(model.info, MASK_SEED)));
  model.dispose();
  const failed = exported(options.model, options.scratch, 'onnx-masked', container);
  if (failed !== undefined) throw new Error(failed);
  return {
    dense: await once(onnx.settings),
    masked: await once({ ...onnx.settings, model: join(options.scratch, 'onnx-masked') }),
  };
}

interface Agreement {
  readonly distance: readonly number[];
  readonly sameGreedy: number;
}

async function checked({ contender, engine }: Started, references: References): Promise<Agreement> {
  const { label, tolerance, settings } = contender;
  const expected = settings.masked ? references.masked : references.dense;
  const found = await askLogits(engine);
  const apart = found.map((rows, i) => distance(rows, expected[i] as Float32Array[]));
  const wrong = apart.find((value) => !(value <= tolerance));
  if (wrong !== undefined) {
    throw new Error(
      `${label} computes something else: expected logits within ${tolerance} of fp32's but they are ${wrong.toFixed(4)} apart, so speeds can't be compared`,
    );
  }
  const same = found.map((rows, i) => sameGreedy(rows, expected[i] as Float32Array[]));
  return { distance: apart, sameGreedy: same.reduce((sum, count) => sum + count, 0) };
}

/** Every pass, by every engine in turn. */
async function measureRound(started: readonly Started[]): Promise<Rates[]> {
  const rates = started.map(() => ({}) as Record<Measure, number>);
  for (const pass of PASSES) {
    for (const [i, { engine }] of started.entries()) {
      const { sequences, depth, steps } = pass;
      const answer: PassAnswer = await engine.pass({ sequences, depth, steps });
      const of = rates[i] as Record<Measure, number>;
      if ('prefill' in pass) of[pass.prefill] = (depth / answer.prefillMs) * 1000;
      if ('decode' in pass) of[pass.decode] = ((sequences * steps) / answer.decodeMs) * 1000;
    }
  }
  return rates;
}

function each(value: (measure: Measure) => number): Rates {
  return Object.fromEntries(MEASURES.map((measure) => [measure, value(measure)])) as Record<Measure, number>;
}
