/** Short prompts through compacted matrices: from how many tokens on they are multiplied by panels, by the rule and as autotuning chooses, and what that makes of their speed. */
import { native, type Handle } from '../../kernels/index.js';
import { shapeOf, tune } from '../../server/engine/autotune.js';
import { CompactedSample, type Matrices } from '../../server/engine/compacted-sample.js';
import { byInput, layerShapes } from '../../server/engine/linear-shapes.js';
import { panelTokensByRule } from '../../server/engine/panel-tokens.js';
import { alternate } from './pairs.js';

export interface PromptFigures {
  readonly model: string;
  readonly threads: number;
  /** Milliseconds that choosing took, of all shapes of the model. */
  readonly tuningMs: number;
  readonly shapes: readonly {
    /** Outputs of all products of one input, and inputs. */
    readonly shape: string;
    readonly rule: number;
    /** The rule's where no time was left. */
    readonly tuned: number;
    /** Speed of TOKENS, one after another. */
    readonly tunedOverRule: number;
  }[];
}

const MODELS = {
  'models/tiny': { layers: 6, hidden: 256, ffn: 704, heads: 4, kvHeads: 2, headDim: 64 },
  'SmolLM2-135M': { layers: 30, hidden: 576, ffn: 1536, heads: 9, kvHeads: 3, headDim: 64 },
  'the 162 M model': { layers: 12, hidden: 768, ffn: 3072, heads: 12, kvHeads: 12, headDim: 64 },
};
/** Lengths of prompts: between the candidates, where a wrong hand-over costs. */
const TOKENS = [8, 12, 20, 28, 40, 56];

export function measurePrompts(settings: { threads: number; runs: number }): PromptFigures[] {
  native.setThreads(settings.threads);
  return Object.entries(MODELS).map(([model, { layers, ...dimensions }]) => {
    const groups = byInput(layerShapes(dimensions)).map((shapes) =>
      Array.from({ length: layers }, () => shapes.map(({ rows, cols }) => ({ rows, cols, weight: ones(rows * cols) }))),
    );
    const started = performance.now();
    const choices = tune(groups, () => performance.now());
    const tuningMs = performance.now() - started;
    const shapes = groups.map((all) => {
      const matrices = all[0] ?? [];
      const [shape, rule] = [shapeOf(matrices), panelTokensByRule(0, matrices[0]?.cols ?? 0)];
      const tuned = choices.get(shape) ?? rule;
      return {
        shape,
        rule,
        tuned,
        tunedOverRule: rule === tuned ? 1 : speedRatio(all, tuned, rule, settings.runs),
      };
    });
    for (const { weight } of groups.flat(2)) native.free(weight);
    return { model, threads: native.info().threads, tuningMs, shapes };
  });
}

function speedRatio(layers: readonly Matrices[], tuned: number, rule: number, runs: number): number {
  const sample = new CompactedSample(layers, Math.max(...TOKENS));
  const by = (panelTokens: number) => (): void => {
    for (const tokens of TOKENS) sample.multiply(tokens, panelTokens);
  };
  const ratio = alternate({ tuned: by(tuned), rule: by(rule) }, runs).faster('tuned', 'rule');
  sample.dispose();
  return ratio;
}

function ones(count: number): Handle {
  const handle = native.alloc(count * 2);
  native.write(handle, 0, new Uint16Array(count).fill(0x3f80));
  return handle;
}
