/**
 * Measures, when a server loads a model, from how many tokens of a prompt on its compacted matrices are better multiplied by panels (panel-tokens.ts):
 * on this processor, with so many threads, for each shape. Bounded, and done once: the next start finds what was measured. Whatever is chosen, results are
 * the same to fp32 rounding.
 */
import { native } from '../../kernels/index.js';
import { keepChoices, keptChoices, type Choices } from './autotune-cache.js';
import { CompactedSample, type Matrices } from './compacted-sample.js';
import { byInput } from './linear-shapes.js';
import { LONG_PROMPT, panelTokensByRule, type PanelTokens } from './panel-tokens.js';
import type { LayerWeights } from './weights.js';

/** Milliseconds of both ways. */
export interface Times {
  readonly panels: number;
  readonly dots: number;
}

/** Of a product of so many tokens; undefined: there is no time for it. */
export type Measure = (tokens: number) => Times | undefined;

/** Descending: what is asked for is the end of a row of wins, and long rows of a matrix lose the first. */
const CANDIDATES = [64, 48, 32, 24, 16, 8];
const MOST_TOKENS = 64;
const BUDGET_MS = 250;
const RUNS = 5;
/** Elements of what is multiplied, a thread: the rows of a larger matrix are like these. */
const SAMPLE_ELEMENTS = 1 << 20;
/** As many layers as these elements take: more than most caches hold. */
const COLD_ELEMENTS = 1 << 26;

/** The choices for the shapes of a model's layers; the rule for what no time was left for. `now`: milliseconds that passed. */
export function tunedPanelTokens(layers: readonly LayerWeights[], now = (): number => performance.now()): PanelTokens {
  const kept = keptChoices();
  const perLayer = layers.map((layer) => byInput(layer));
  const groups = (perLayer[0] ?? []).map((_, i) => perLayer.map((matrices) => matrices[i] ?? []));
  const missing = groups.filter(([matrices]) => matrices !== undefined && !kept.has(shapeOf(matrices)));
  const measured = tune(missing, now);
  if (measured.size > 0) keepChoices(measured);
  const choices: Choices = new Map([...kept, ...measured]);
  return (rows, cols) => choices.get(shapeName(rows, cols)) ?? panelTokensByRule(rows, cols);
}

/** Of as many shapes, in their order, as BUDGET_MS is enough for. groups: of each shape, what is multiplied in one call, of every layer. */
export function tune(groups: readonly (readonly Matrices[])[], now: () => number): Choices {
  const end = now() + BUDGET_MS;
  const choices = new Map<string, number>();
  const elements = SAMPLE_ELEMENTS * native.info().threads;
  const most = Math.max(1, Math.floor(COLD_ELEMENTS / elements));
  // Without a shuffle whose places are data nothing is multiplied by panels.
  if (native.info().isa === 'scalar') return choices;
  for (const layers of groups) {
    const matrices = layers[0] ?? [];
    const shape = shapeOf(matrices);
    if (choices.has(shape) || now() >= end || matrices.some(({ cols }) => cols % 8 !== 0)) continue;
    const sample = new CompactedSample(layers.slice(0, most), MOST_TOKENS, elements);
    try {
      const chosen = pickPanelTokens((tokens) => (now() < end ? timesOf(sample, tokens, now) : undefined));
      if (chosen !== undefined) choices.set(shape, chosen);
    } finally {
      sample.dispose();
    }
  }
  return choices;
}

/** The least of CANDIDATES from which panels win, and go on winning: LONG_PROMPT where they don't. Undefined: time ran out before that was known. */
export function pickPanelTokens(measure: Measure): number | undefined {
  let from = LONG_PROMPT;
  for (const tokens of CANDIDATES) {
    const times = measure(tokens);
    if (times === undefined) return undefined;
    if (times.panels >= times.dots) break;
    from = tokens;
  }
  return from;
}

/** The best of RUNS each, in turns: what else the machine does only ever adds to a time. */
function timesOf(sample: CompactedSample, tokens: number, now: () => number): Times {
  const best = { panels: Infinity, dots: Infinity };
  for (let run = 0; run < RUNS; run++) {
    for (const way of ['panels', 'dots'] as const) {
      const begin = now();
      sample.multiply(tokens, way === 'panels' ? tokens : LONG_PROMPT);
      best[way] = Math.min(best[way], now() - begin);
    }
  }
  return best;
}

/** Of what is multiplied in one call. */
export function shapeOf(matrices: Matrices): string {
  const rows = matrices.reduce((sum, matrix) => sum + matrix.rows, 0);
  return shapeName(rows, matrices[0]?.cols ?? 0);
}

function shapeName(rows: number, cols: number): string {
  return `${rows} x ${cols}`;
}
