/** Layers that stay dense (MaskLLM's Table 15): out of the mask set, out of the learner, with the frozen weights in every pass. */
import type { Model } from '../engine/model.js';
import { matricesOf, type DenseMatrix } from '../engine/weights.js';
import type { Learner } from './learner.js';

const ENDS = /^(first|last):(\d+)$/;
const INDEX = /^(?:model\.layers\.)?(\d+)$/;

/**
 * The model reduced to the layers that are masked, for whatever goes through `matricesOf`: learners, compaction, mask sets. It shares the buffers, and its
 * forward pass still runs every layer. Throws one line on a layer that isn't there, and when none is left.
 */
export function maskedLayersOf(model: Model, keepDense: readonly string[]): Model {
  const count = model.config.layers;
  const dense = new Set(keepDense.flatMap((which) => layersNamed(which, count)));
  const layers = model.weights.layers.filter((_, index) => !dense.has(index));
  if (layers.length === 0) throw new Error(`expected --keep-dense to leave some of the ${count} layers to be masked`);
  return { ...model, weights: { ...model.weights, layers } };
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

function layersNamed(which: string, count: number): number[] {
  const [, end, number] = ENDS.exec(which) ?? [];
  if (end !== undefined && Number(number) <= count) {
    const first = end === 'first' ? 0 : count - Number(number);
    return Array.from({ length: Number(number) }, (_, i) => first + i);
  }
  const index = Number(INDEX.exec(which)?.[1] ?? NaN);
  if (index < count) return [index];
  throw new Error(
    `expected --keep-dense to be like last:1, first:2, ${count - 1} or model.layers.${count - 1} (the model has ${count} layers), but received ${which}`,
  );
}
