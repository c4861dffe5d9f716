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
}

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

/** (e): a patch of the general mask of a prepared base. */
export function* preparedSets(directory: string, patches: readonly string[]): Generator<MeasuredSet> {
  const model = loadModel(directory, {});
  try {
    const weights = weightsOf(model);
    const general = readSet(join(directory, 'masks', `${GENERAL}.mask`), weights);
    for (const patch of patches) {
      const child = readSet(patch, weights, general);
      yield { row: 'e', name: `${model.info.name}, ${basename(patch, '.mask')}`, ...under(general, child), weights };
    }
  } finally {
    model.dispose();
  }
}

/** The child coded against `parent`, whatever its file names. */
function under(parent: MaskSet, child: MaskSet): { set: MaskSet; parent: MaskSet } {
  return { set: { ...child, parent: contentDigest(parent) }, parent };
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
