/** `npm run bench -- kernels`: issue 6's bars for decoding, each measured in alternating runs, on one and on all threads. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { native, type Isa } from '../../kernels/index.js';
import { measureEngine, type EngineFigures } from './kernels-engine.js';
import type { LayerFigures, LayerSettings } from './kernels-layer.js';
import { measurePrompts, type PromptFigures } from './kernels-prompt.js';

export interface KernelFigures {
  readonly layers: readonly LayerFigures[];
  readonly engine: readonly EngineFigures[];
  readonly prompts: readonly PromptFigures[];
}

export interface KernelSettings {
  readonly model: string;
  /** 0: all. */
  readonly threads: number;
  readonly runs: number;
}

/** 256 MiB of dense bf16. */
const LAYER = { rows: 16384, cols: 8192 };
const MEASURED: readonly Isa[] = ['avx512', 'avx2'];
const SCRIPT = fileURLToPath(new URL('./kernels-layer.js', import.meta.url));

export function measureKernels({ model, threads, runs }: KernelSettings): KernelFigures {
  const isas = MEASURED.filter((isa) => native.info().available.includes(isa));
  native.setThreads(threads);
  const counts = [...new Set([1, native.info().threads])];
  return {
    layers: isas.flatMap((isa) => counts.map((count) => layerOn(isa, { ...LAYER, threads: count, runs }))),
    engine: counts.map((count) => measureEngine(model, { threads: count, runs })),
    prompts: counts.flatMap((count) => measurePrompts({ threads: count, runs })),
  };
}

function layerOn(isa: Isa, settings: LayerSettings): LayerFigures {
  const env = { ...process.env, MASKSERVE_ISA: isa };
  const child = spawnSync(process.execPath, [SCRIPT, JSON.stringify(settings)], { env, encoding: 'utf8' });
  if (child.status !== 0) throw new Error(`measuring a layer on ${isa} failed: ${child.stderr.trim()}`);
  return JSON.parse(child.stdout) as LayerFigures;
}

interface Bar {
  readonly what: string;
  readonly reached: string;
  readonly bar: string;
}

export function kernelTable({ layers, engine, prompts }: KernelFigures): string {
  const lines = [
    ...layers.flatMap((figures) => [`\n${layerTitle(figures)}`, ...layerBars(figures).map(line)]),
    ...engine.flatMap((figures) => [`\n${engineTitle(figures)}`, ...engineBars(figures).map(line)]),
    ...prompts.flatMap((figures) => [`\n${promptTitle(figures)}`, ...promptLines(figures).map(line)]),
  ];
  return lines.join('\n');
}

function line({ what, reached, bar }: Bar): string {
  return `  ${what.padEnd(58)} ${reached.padEnd(9)} ${bar}`;
}

function layerTitle({ isa, threads, denseBytes, readRate, denseRate, sparseRate }: LayerFigures): string {
  const rates = `read ${readRate.toFixed(1)}, dense ${denseRate.toFixed(1)}, 2:4 ${sparseRate.toFixed(1)} GB/s`;
  return `a layer of ${(denseBytes / 2 ** 20).toFixed(0)} MiB, ${isa}, ${threadsOf(threads)}: ${rates}`;
}

function layerBars(figures: LayerFigures): Bar[] {
  const best = figures.isa === 'avx512';
  return [
    { what: 'dense ÷ plain reading', reached: times(figures.denseOfRead), bar: best ? '≥ 0.90' : '' },
    { what: '2:4 ÷ dense', reached: times(figures.sparseOverDense), bar: best ? '≥ 1.60 (limit 1.78)' : '≥ 1.35' },
    { what: '4 masks in one pass ÷ one after another', reached: times(figures.multiMaskOverSingly), bar: '≥ 1.50' },
    { what: '8 patches of 1.5% ÷ 8 tokens of the parent', reached: times(figures.patchedOverParent), bar: '≥ 0.85' },
    { what: 'a patch ÷ a compacted copy', reached: percent(figures.patchShare), bar: '≤ 4%' },
    { what: 'calling an op', reached: `${figures.callUs.toFixed(2)} µs`, bar: '< 1 µs' },
  ];
}

function engineTitle({ model, threads, dense, masked }: EngineFigures): string {
  return `${model} in the engine, ${threadsOf(threads)}: dense ${dense.toFixed(1)}, masked ${masked.toFixed(1)} tokens/s`;
}

function engineBars(figures: EngineFigures): Bar[] {
  return [
    { what: 'one sequence, masked ÷ dense', reached: times(figures.maskedOverDense), bar: '≥ 1.40' },
    { what: '4 sequences of 4 masks ÷ one after another', reached: times(figures.multiMaskOverSingly), bar: '≥ 1.50' },
    { what: '8 sequences of 8 patches ÷ 8 of one mask', reached: times(figures.patchedOverParent), bar: '≥ 0.85' },
    { what: 'a patched task ÷ a compacted one', reached: percent(figures.patchShare), bar: '≤ 4%' },
  ];
}

function promptTitle({ model, threads, tuningMs }: PromptFigures): string {
  return `short prompts, shapes of ${model}, ${threadsOf(threads)}: chosen in ${tuningMs.toFixed(0)} ms`;
}

function promptLines({ shapes }: PromptFigures): Bar[] {
  return shapes.map(({ shape, rule, tuned, tunedOverRule }) => ({
    what: `${shape}: panels from ${tuned} tokens, by rule ${rule}; tuned ÷ rule`,
    reached: times(tunedOverRule),
    bar: '',
  }));
}

function times(ratio: number): string {
  return `${ratio.toFixed(2)}×`;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(2)}%`;
}

function threadsOf(threads: number): string {
  return threads === 1 ? 'one thread' : `${threads} threads`;
}
