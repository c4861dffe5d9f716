/** `npm run bench -- peers`: the same model in maskserve and in the engines that somebody would use instead, side by side in one run. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { LLAMA_1100M, LLAMA_162M, writeRandomModel } from '../random-model.js';
import { type LayerFigures, measureLayers } from './layer-peers.js';
import { measureModel, type ModelFigures, type ModelPeersOptions } from './model-peers.js';
import type { Clock } from './protocol.js';
import { layerTable, modelTable } from './report.js';

export interface PeersOptions {
  /** Hugging Face directories in bf16 instead of the usual models. */
  readonly models: readonly string[] | undefined;
  /** The 1.1 B shape instead of the usual models. */
  readonly large: boolean;
  /** No model, single layers alone. */
  readonly layers: boolean;
  /** A folder with SmolLM2's GGUF and its converter, `convert.mjs`. */
  readonly smollm2: string | undefined;
  /** One round of the 162 M model, no layers. */
  readonly quick: boolean;
  readonly runs: number;
  /** 0: all cores. */
  readonly threads: number;
  /** One thread by its CPU time: for a machine that others use. */
  readonly cpuTime: boolean;
  readonly python: string | undefined;
}

export interface PeersFigures {
  readonly models: readonly ModelFigures[];
  readonly layers: readonly LayerFigures[];
}

type Subject = Pick<ModelPeersOptions, 'name' | 'model' | 'ggufs' | 'quantized'>;

const SMOLLM2_SKIPPED =
  '\nSmolLM2 is skipped: it needs the folder with its Q4_1 GGUF and convert.mjs: --smollm2 DIR or MASKSERVE_SMOLLM2';

/** Prints each table when it is measured. */
export async function comparePeers(options: PeersOptions): Promise<PeersFigures> {
  const scratch = mkdtempSync(join(tmpdir(), 'maskserve-peers-'));
  const most = options.threads === 0 ? availableParallelism() : options.threads;
  const threads = options.cpuTime ? [1] : options.quick ? [most] : [...new Set([1, most])];
  const runs = options.quick ? 1 : options.runs;
  const clock: Clock = options.cpuTime ? 'cpu' : 'wall';
  const common = { threads, runs, clock, python: options.python, onStage: showStage };
  const models: ModelFigures[] = [];
  const interrupted = (): void => {
    rmSync(scratch, { recursive: true, force: true });
    process.exit(130);
  };
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  try {
    for (const subject of options.layers ? [] : subjects(options, scratch)) {
      const own = join(scratch, `${subject.name}-files`);
      for await (const figures of measureModel({ ...common, ...subject, scratch: own })) {
        console.log(modelTable(figures, subject.name === RANDOM_162M));
        models.push(figures);
      }
      rmSync(own, { recursive: true, force: true });
    }
    const layers =
      options.quick || options.large ? [] : await measureLayers({ ...common, scratch: join(scratch, 'layers') });
    if (layers.length > 0) console.log(layerTable(layers));
    return { models, layers };
  } finally {
    process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
    rmSync(scratch, { recursive: true, force: true });
  }
}

const RANDOM_162M = 'random LLaMA, 162 M';

function* subjects(options: PeersOptions, scratch: string): Generator<Subject> {
  const { models, large, smollm2, quick } = options;
  if (models !== undefined) {
    for (const model of models) yield { name: basename(model), model, ggufs: [], quantized: true };
    return;
  }
  const model = join(scratch, 'random');
  writeRandomModel(model, large ? LLAMA_1100M : LLAMA_162M);
  yield { name: large ? 'random LLaMA, 1.1 B' : RANDOM_162M, model, ggufs: [], quantized: false };
  if (large || quick) return;
  if (smollm2 === undefined) console.log(SMOLLM2_SKIPPED);
  else yield convertedSmolLM2(smollm2, join(scratch, 'smollm2'));
}

function convertedSmolLM2(folder: string, model: string): Subject {
  const gguf = existsSync(folder) ? readdirSync(folder).find((name) => name.endsWith('.Q4_1.gguf')) : undefined;
  if (gguf === undefined) throw new Error(`expected a .Q4_1.gguf in ${folder}; check --smollm2`);
  const { status, stderr } = spawnSync(process.execPath, [join(folder, 'convert.mjs'), model], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${join(folder, 'convert.mjs')} failed: ${stderr.trim().split('\n').at(-1)}`);
  return {
    name: 'SmolLM2-135M',
    model,
    ggufs: [{ label: 'llama.cpp Q4_1', file: join(folder, gguf) }],
    quantized: true,
  };
}

function showStage(stage: string): void {
  if (process.stderr.isTTY) process.stderr.write(`${stage} …\n`);
}
