/** Single layers, one product after another through copies that no cache holds: maskserve dense and 2:4, and the peers that can be asked for one. */
import { median } from '../forward.js';
import { whyNoOnnxRuntime, whyNoTorch } from './installed.js';
import { DENSE, MASKED, ONNX } from './contenders.js';
import { EngineProcess } from './engine-process.js';
import type { Clock, EngineSettings } from './protocol.js';

export const LAYER_SHAPES = [
  { rows: 4096, cols: 4096 },
  { rows: 11008, cols: 4096 },
  { rows: 4096, cols: 11008 },
] as const;
export const LAYER_TOKENS = [1, 8, 64, 512] as const;

export interface LayerFigures {
  readonly rows: number;
  readonly cols: number;
  readonly tokens: number;
  readonly threads: number;
  readonly contenders: readonly {
    readonly label: string;
    /** Median milliseconds of one product. */
    readonly ms: number;
    /** maskserve's 2:4 ÷ this one, in speed. */
    readonly maskedOver: number;
  }[];
}

export interface LayerPeersOptions {
  /** For the peers' files. */
  readonly scratch: string;
  readonly threads: readonly number[];
  readonly runs: number;
  readonly clock: Clock;
  readonly python: string | undefined;
  readonly onStage: (stage: string) => void;
}

/** None of these is asked for a model. */
const NO_MODEL = { sequences: 0, positions: 0, vocab: 0, layers: 0, kvHeads: 0, headDim: 0 };

export async function measureLayers(options: LayerPeersOptions): Promise<LayerFigures[]> {
  const figures: LayerFigures[] = [];
  for (const threads of options.threads) {
    const settings = { ...NO_MODEL, threads, clock: options.clock, scratch: options.scratch };
    const all: { label: string; settings: EngineSettings }[] = [
      { label: DENSE, settings: { kind: 'maskserve', ...settings } },
      { label: MASKED, settings: { kind: 'maskserve', masked: true, ...settings } },
      ...(whyNoOnnxRuntime() === undefined
        ? [{ label: ONNX, settings: { kind: 'onnxruntime', ...settings } as const }]
        : []),
      ...(whyNoTorch(options.python) === undefined
        ? [{ label: 'PyTorch bf16', settings: { kind: 'torch', ...settings } as const }]
        : []),
    ];
    const engines: EngineProcess[] = [];
    try {
      for (const { settings: of } of all) engines.push((await EngineProcess.start(of, options.python)).engine);
      for (const shape of LAYER_SHAPES) {
        for (const tokens of LAYER_TOKENS) {
          options.onStage(`${shape.rows}×${shape.cols}, ${tokens} tokens, ${threads} threads`);
          const labels = all.map(({ label }) => label);
          figures.push(await measureLayer(labels, engines, { ...shape, tokens }, threads, options.runs));
        }
      }
    } finally {
      await Promise.all(engines.map((engine) => engine.stop()));
    }
  }
  return figures;
}

async function measureLayer(
  labels: readonly string[],
  engines: readonly EngineProcess[],
  layer: { readonly rows: number; readonly cols: number; readonly tokens: number },
  threads: number,
  runs: number,
): Promise<LayerFigures> {
  const rounds: number[][] = [];
  for (let round = -1; round < runs; round++) {
    const times: number[] = [];
    for (const engine of engines) times.push((await engine.layer(layer)).ms);
    if (round >= 0) rounds.push(times); // in the first the weights are made
  }
  const masked = labels.indexOf(MASKED);
  const column = (i: number): number[] => rounds.map((times) => times[i] as number);
  return {
    ...layer,
    threads,
    contenders: labels.map((label, i) => ({
      label,
      ms: median(column(i)),
      maskedOver: median(rounds.map((times) => (times[i] as number) / (times[masked] as number))),
    })),
  };
}
