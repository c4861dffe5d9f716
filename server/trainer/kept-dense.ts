/** Layers and matrices that stay dense (MaskLLM's Table 15): out of the mask set, out of the learner, with the frozen weights in every pass. */
import type { Model } from '../engine/model.js';
import { matricesOf, type DenseMatrix } from '../engine/weights.js';
import type { PatternTable } from '../../codec/pattern.js';
import type { Learner } from './learner.js';
import { TWO_OF_FOUR, type MaskedModel } from './n-of-m.js';

const ENDS = /^(first|last):(\d+)$/;
const INDEX = /^(?:model\.layers\.)?(\d+)$/;
const LAYER_OF = /^model\.layers\.(\d+)\./;
const WEIGHT = /\.weight$/;
/** Names that an error offers. */
const NEAR = 3;

/** From `first` to before `end`. */
type LayerRange = readonly [first: number, end: number];

/**
 * The model whose masks leave out what `keepDense` names, for whatever goes through `matricesOf`: learners, compaction, mask sets. It shares the buffers, and its
 * forward pass runs as before. Throws one line on a layer or matrix that isn't there, and when none is left.
 */
export function maskedLayersOf(
  model: Model,
  keepDense: readonly string[],
  pattern: PatternTable = TWO_OF_FOUR,
): MaskedModel {
  const dense = new Set(keepDense.flatMap((which) => matricesNamed(which, model)));
  const masked = matricesOf(model.weights).filter((matrix) => !dense.has(matrix));
  if (masked.length === 0) {
    throw new Error(`expected --keep-dense to leave some of the ${model.config.layers} layers to be masked`);
  }
  return { ...model, pattern, weights: { ...model.weights, masked: new Set(masked.map(({ name }) => name)) } };
}

/** A learner of some matrices as one of all: the others run dense, and their gradients are dropped. */
export function withDenseRest(learner: Learner, masked: readonly DenseMatrix[]): Learner {
  const names = new Set(masked.map(({ name }) => name));
  return {
    parameters: learner.parameters,
    bytes: learner.bytes,
    prepare: (step, steps) => learner.prepare(step, steps),
    weight: (matrix) => (names.has(matrix.name) ? learner.weight(matrix) : { weight: matrix.weight, type: 'bf16' }),
    accept: (matrix, dw) => {
      if (names.has(matrix.name)) learner.accept(matrix, dw);
    },
    nibbles: (matrix) => learner.nibbles(matrix),
    dispose: () => learner.dispose(),
  };
}

/** Weights under the mask. */
export function maskedParameters(masked: Model): number {
  return matricesOf(masked.weights).reduce((sum, { rows, cols }) => sum + rows * cols, 0);
}

function matricesNamed(which: string, { weights, config }: Model): DenseMatrix[] {
  const matrices = matricesOf(weights);
  const layers = layersNamed(which, config.layers);
  if (layers) return matrices.filter(({ name }) => isWithin(Number(LAYER_OF.exec(name)?.[1]), layers));
  const named = matrices.filter(({ name }) => name.replace(WEIGHT, '') === which.replace(WEIGHT, ''));
  if (named.length > 0) return named;
  const last = config.layers - 1;
  const near = [ENDS, INDEX].some((form) => form.test(which))
    ? ''
    : `; near are ${nearest(which, matrices).join(', ')}`;
  throw new Error(
    `expected --keep-dense to be like last:1, first:2, ${last}, model.layers.${last} or model.layers.${last}.mlp.down_proj (the model has ${config.layers} layers), but received ${which}${near}`,
  );
}

/** The layers that are meant; undefined: none of the model. */
function layersNamed(which: string, count: number): LayerRange | undefined {
  const [, side, number] = ENDS.exec(which) ?? [];
  const ends = Number(number);
  if (side !== undefined && ends <= count) return side === 'first' ? [0, ends] : [count - ends, count];
  const index = Number(INDEX.exec(which)?.[1] ?? NaN);
  return index < count ? [index, index + 1] : undefined;
}

function isWithin(layer: number, [first, end]: LayerRange): boolean {
  return layer >= first && layer < end;
}

/** The names that take the fewest changes to be `which`, or to end in it. */
function nearest(which: string, matrices: readonly DenseMatrix[]): string[] {
  const typed = which.replace(WEIGHT, '');
  const distances = matrices.map(({ name }) => {
    const full = name.replace(WEIGHT, '');
    const tails = [
      full,
      full.slice(full.indexOf('.', 'model.layers.'.length) + 1),
      full.slice(full.lastIndexOf('.') + 1),
    ];
    return { full, distance: Math.min(...tails.map((tail) => changesBetween(typed, tail))) };
  });
  return distances
    .sort((a, b) => a.distance - b.distance)
    .slice(0, NEAR)
    .map(({ full }) => full);
}

/** Levenshtein's distance. */
function changesBetween(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const above = row;
    row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (above[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(replaced, (above[j] as number) + 1, (row[j - 1] as number) + 1));
    }
  }
  return row.at(-1) as number;
}
