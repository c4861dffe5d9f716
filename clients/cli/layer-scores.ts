/** Perplexity of each layer's mask alone. Imported when needed, because it loads the native kernels. */
import { Evaluation } from '../../server/engine/evaluate.js';
import type { Model } from '../../server/engine/model.js';
import type { TaskWeights } from '../../server/engine/types.js';
import { readSource } from '../../server/trainer/corpus.js';
import { openModel, openTask } from './local-model.js';
import type { Progress } from './progress.js';
import { type TextOptions, WINDOW_TOKENS } from './text-options.js';

export interface LayerScoreOptions extends TextOptions {
  readonly task: string;
  readonly mask?: string;
  readonly parent?: string;
  readonly data: readonly string[];
  readonly windows: number;
}

export interface LayerScore {
  /** `model.layers.3`, or `none` and `all`. */
  readonly layer: string;
  /** Average perplexity of the texts. */
  readonly ppl: number;
  /** Of each text, in the order given. */
  readonly texts: readonly number[];
}

/** First nothing masked, then each layer alone, then all. */
export async function scoreLayers(options: LayerScoreOptions, progress: Progress): Promise<LayerScore[]> {
  const model = openModel(options);
  try {
    const texts = options.data.map((pattern) => readSource(pattern).documents);
    const task = await openTask(model, options.task, options.mask, options.parent);
    if (!task.weights) throw new Error('expected --task or --mask to name a mask, but dense has none');
    try {
      const cases = masksByLayer(model, task.weights);
      return cases.map(([layer, weights], index) => {
        progress.update(index, cases.length, 'scoring layers');
        const scores = texts.map((documents) => perplexity(model, documents, weights, options));
        return { layer, ppl: scores.reduce((sum, ppl) => sum + ppl, 0) / scores.length, texts: scores };
      });
    } finally {
      task.dispose();
    }
  } finally {
    model.dispose();
  }
}

/** Layers that the mask leaves dense are left out. */
function masksByLayer(model: Model, all: TaskWeights): [layer: string, weights: TaskWeights | null][] {
  const layers = model.weights.layers.flatMap((_, index): [string, TaskWeights][] => {
    const layer = `model.layers.${index}`;
    const [matrices, maskedDense] = [within(layer, all.matrices), within(layer, all.maskedDense ?? {})];
    const isMasked = Object.keys({ ...matrices, ...maskedDense }).length > 0;
    return isMasked ? [[layer, { ...all, matrices, maskedDense }]] : [];
  });
  return [['none', null], ...layers, ['all', all]];
}

function within<T>(layer: string, matrices: Readonly<Record<string, T>>): Record<string, T> {
  return Object.fromEntries(Object.entries(matrices).filter(([name]) => name.startsWith(`${layer}.`)));
}

function perplexity(
  model: Model,
  documents: readonly string[],
  weights: TaskWeights | null,
  { windows, separator, bos }: LayerScoreOptions,
): number {
  const text = {
    documents,
    windowLength: WINDOW_TOKENS,
    windows,
    bos,
    ...(separator === undefined ? {} : { separator }),
  };
  const evaluation = new Evaluation(model, { ...text, weights });
  try {
    while (!evaluation.step());
    return evaluation.result().ppl;
  } finally {
    evaluation.dispose();
  }
}
