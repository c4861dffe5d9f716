/** The mask sets of the codec's size table: random, one-shot, shipped, and a patch on a prepared base. */
import { readFileSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { decodeChain } from '../../codec/chain.js';
import { contentDigest } from '../../codec/content-digest.js';
import type { WeightsLookup } from '../../codec/context.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { native } from '../../kernels/index.js';
import { tokenStream } from '../../server/engine/evaluate.js';
import { linearShapes } from '../../server/engine/linear-shapes.js';
import { loadModel, type Model } from '../../server/engine/model.js';
import { Random } from '../../server/engine/random.js';
import { sampleWindows } from '../../server/trainer/calibrate.js';
import { readSource } from '../../server/trainer/corpus.js';
import { oneShotMask, type OneShotMethod } from '../../server/trainer/one-shot.js';
import { TINY } from '../tiny.js';
import { LLAMA_162M, type RandomShape } from './random-model.js';

/** One row of the table. */
export interface MeasuredSet {
  /** (a) to (e) of the table, and what it is. */
  readonly row: string;
  readonly name: string;
  readonly set: MaskSet;
  readonly parent?: MaskSet;
  readonly weights?: WeightsLookup;
  /** Made from another row for the sake of a bar: no rivals, no other coders. */
  readonly derived?: boolean;
}

/** Shares of changed groups for which issue 5 names the size of a patch. */
export const NAMED_CHURNS = [0.0046, 0.0001] as const;

const GENERAL = 'general';
const CALIBRATION = { windows: 32, tokens: 256, seed: 1 };
/** Text that comes with every checkout: what a one-shot mask is calibrated on hardly changes what it costs. */
const CALIBRATION_TEXT = ['README.md', 'codec/FORMAT.md', 'server/**/*.ts'];

/** (a): uniformly random patterns over the matrices of the 162 M model. */
export function randomSet(shape: RandomShape = LLAMA_162M): MeasuredSet {
  const random = new Random(1);
  const masks = linearShapes({ ...shape, headDim: shape.hidden / shape.heads }).map(({ name, rows, cols }) => ({
    name,
    rows,
    cols,
    symbols: Uint8Array.from({ length: (rows * cols) / 4 }, () => Math.floor(random.uniform() * 6)),
  }));
  return { row: 'a', name: 'random, 162 M model', set: { n: 2, m: 4, base: '0'.repeat(64), masks } };
}

/** (b) one-shot masks of models/tiny, (c) its general mask, (d) its domain masks given general. */
export function* tinySets(): Generator<MeasuredSet> {
  const model = loadModel(TINY, {});
  try {
    const weights = weightsOf(model);
    for (const method of ['magnitude', 'wanda', 'sparsegpt'] as const) {
      yield { row: 'b', name: `tiny, ${method}`, set: oneShot(model, method), weights };
    }
    const shipped = readdirSync(join(TINY, 'masks')).filter((file) => file.endsWith('.mask'));
    const general = readSet(join(TINY, 'masks', `${GENERAL}.mask`), weights);
    yield { row: 'c', name: `tiny, ${GENERAL} (learned)`, set: general, weights };
    for (const file of shipped.filter((file) => file !== `${GENERAL}.mask`)) {
      const child = readSet(join(TINY, 'masks', file), weights, general);
      yield { row: 'd', name: `tiny, ${basename(file, '.mask')}`, ...under(general, child), weights };
    }
  } finally {
    model.dispose();
  }
}

/**
 * (c) the general mask of a prepared base, (e) patches of it; and from the patch that changes most, patches of the shares that the bars name: those
 * of its changes that come first in a random order.
 */
export function* preparedSets(directory: string, patches: readonly string[]): Generator<MeasuredSet> {
  const model = loadModel(directory, {});
  try {
    const weights = weightsOf(model);
    const general = readSet(join(directory, 'masks', `${GENERAL}.mask`), weights);
    yield { row: 'c', name: `${model.info.name}, ${GENERAL} (learned)`, set: general, weights };
    let most = general;
    for (const patch of patches) {
      const child = readSet(patch, weights, general);
      if (countChanges(child, general) > countChanges(most, general)) most = child;
      yield { row: 'e', name: `${model.info.name}, ${basename(patch, '.mask')}`, ...under(general, child), weights };
    }
    const groups = general.masks.reduce((sum, { symbols }) => sum + symbols.length, 0);
    for (const churn of NAMED_CHURNS) {
      const changes = Math.round(churn * groups);
      if (changes > countChanges(most, general)) continue;
      const name = `${model.info.name}, ${(100 * churn).toFixed(2)}% of the groups`;
      yield { row: 'e', name, ...under(general, withFewerChanges(most, general, changes)), weights, derived: true };
    }
  } finally {
    model.dispose();
  }
}

/** The child coded against `parent`, whatever its file names. */
function under(parent: MaskSet, child: MaskSet): { set: MaskSet; parent: MaskSet } {
  return { set: { ...child, parent: contentDigest(parent) }, parent };
}

function countChanges(child: MaskSet, parent: MaskSet): number {
  const parentOf = new Map(parent.masks.map((mask) => [mask.name, mask.symbols]));
  let changes = 0;
  for (const { name, symbols } of child.masks) {
    const from = parentOf.get(name);
    symbols.forEach((symbol, i) => (changes += symbol === from?.[i] ? 0 : 1));
  }
  return changes;
}

/** The child with so many of its changes, chosen at random: each is kept with the chance that fills what is left to be kept. */
function withFewerChanges(child: MaskSet, parent: MaskSet, kept: number): MaskSet {
  const random = new Random(1);
  const parentOf = new Map(parent.masks.map((mask) => [mask.name, mask.symbols]));
  let [left, wanted] = [countChanges(child, parent), kept];
  const masks = child.masks.map((mask) => {
    const from = parentOf.get(mask.name) ?? mask.symbols;
    const symbols = mask.symbols.map((symbol, i) => {
      const before = from[i] ?? symbol;
      if (symbol === before) return symbol;
      const keep = random.uniform() * left-- < wanted;
      if (keep) wanted--;
      return keep ? symbol : before;
    });
    return { ...mask, symbols };
  });
  return { ...child, masks };
}

function readSet(path: string, weights: WeightsLookup, parent?: MaskSet): MaskSet {
  const known = (content: string): MaskSet | undefined =>
    parent !== undefined && contentDigest(parent) === content ? parent : undefined;
  return decodeChain(readFileSync(path), { parent: known, weights });
}

function weightsOf(model: Model): WeightsLookup {
  const matrixOf = new Map(model.info.maskable.map((matrix) => [matrix.name, matrix]));
  return (name) => {
    const matrix = matrixOf.get(name);
    if (matrix === undefined) return undefined;
    const words = new Uint16Array(matrix.rows * matrix.cols);
    native.read(matrix.weight, 0, words);
    return words;
  };
}

function oneShot(model: Model, method: OneShotMethod): MaskSet {
  const { windows: count, tokens, seed } = CALIBRATION;
  const documents = CALIBRATION_TEXT.flatMap((source) => [...readSource(source).documents]);
  const windows =
    method === 'magnitude' ? [] : sampleWindows([tokenStream(model, documents, { bos: false })], count, tokens, seed);
  return oneShotMask(model, { method, windows, damp: 0.01 });
}
