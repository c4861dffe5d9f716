/** A model directory, loaded: configuration, frozen weights, tokenizer. Shared by the engine worker and the command line. */
import { existsSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { native, type KvType } from '../../kernels/index.js';
import { baseDigest } from './base-digest.js';
import { tunedPanelTokens } from './autotune.js';
import { Forward } from './llama.js';
import { readModelConfig, type ModelConfig } from './model-config.js';
import { panelTokensByRule, type PanelTokens } from './panel-tokens.js';
import { locateTensors } from './safetensors.js';
import { loadTokenizer, type ModelTokenizer } from './tokenizer.js';
import type { MaskableMatrix, ModelInfo } from './types.js';
import { loadWeights, matricesOf, type DenseMatrix, type ModelWeights, type WeightsPlace } from './weights.js';

/** Without --max-context, the rotary tables and the largest cache stop here: a longer context is asked for by name. */
const DEFAULT_CONTEXT_LIMIT = 8192;

export interface Model {
  readonly info: ModelInfo;
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
  /** Undefined where the directory has no tokenizer.json: then only token ids are taken. */
  readonly tokenizer: ModelTokenizer | undefined;
  readonly forward: Forward;
  /** What the caches of sequences and evaluations hold. Training's are fp32. */
  readonly kvType: KvType;
  dispose(): void;
}

/**
 * Loads `directory`; autotune: choices between kernels that the rounding of results depends on are measured, or taken from an earlier measurement. Only a
 * server asks for that: what a command prints must not depend on a file in a cache folder. Throws one line that says which file, field or tensor can't be
 * run and why; DeviceFull where a GPU has not the room.
 */
export function loadModel(
  directory: string,
  options: {
    readonly threads?: number;
    readonly maxContext?: number;
    readonly kvType?: KvType;
    readonly autotune?: boolean;
  } & WeightsPlace = {},
): Model {
  const path = resolve(directory);
  if (!existsSync(path)) throw new Error(`expected a model directory at ${path}, but there is none; check --model`);
  native.setThreads(options.threads ?? 0);
  const config = readModelConfig(path);
  const tensors = locateTensors(path);
  const denseOnHost = options.denseOnHost === true && native.info().device !== null;
  const weights = loadWeights(config, tensors, { ...options, denseOnHost });
  const contextLength = Math.min(config.context, options.maxContext ?? DEFAULT_CONTEXT_LIMIT);
  const tokenizer = loadTokenizer(path, config);
  const forward = new Forward(config, weights, contextLength, choosePanelTokens(weights, options.autotune === true));
  return {
    info: {
      name: basename(path),
      directory: path,
      architecture: config.architecture,
      base: baseDigest(tensors),
      vocabularySize: config.vocab,
      contextLength,
      parameters: weights.parameters,
      bosId: config.bosId,
      eosIds: config.eosIds,
      maskable: matricesOf(weights).map(maskableOf),
      backend: native.info().backend,
      denseOnHost,
      hasChatTemplate: tokenizer?.chatTemplate !== undefined,
    },
    config,
    weights,
    tokenizer,
    forward,
    kvType: options.kvType ?? 'f32',
    dispose: () => {
      forward.dispose();
      weights.dispose();
    },
  };
}

/** A GPU chooses by itself. */
function choosePanelTokens({ layers }: ModelWeights, autotune: boolean): PanelTokens {
  return autotune && native.info().device === null ? tunedPanelTokens(layers) : panelTokensByRule;
}

/** Only matrices of whole bytes of metadata have a compacted form. */
function maskableOf({ name, rows, cols, weight }: DenseMatrix): MaskableMatrix {
  return { name, rows, cols, weight, ...(cols % 8 === 0 ? { packedBytes: native.packedBytes(rows, cols) } : {}) };
}
