/**
 * PEFT's LoRA folders (huggingface/peft, `adapter_config.json` and `adapter_model.safetensors`), read and written. What an adapter has beside low-rank pairs of the
 * model's matrices is refused by the field: a teacher must be the model that its owner trained.
 */
import { createHash } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { native } from '../../kernels/index.js';
import { readHeader, type TensorLocation } from '../engine/safetensors.js';
import { writeSafetensors, type TensorToWrite } from '../engine/safetensors-writer.js';
import { matricesOf, type DenseMatrix, type ModelWeights } from '../engine/weights.js';
import { Buffers } from './activations.js';
import type { LoraAdapter, LoraPair } from './lora-merge.js';
import { saveFile } from './save-model.js';

export const ADAPTER_CONFIG = 'adapter_config.json';
const ADAPTER_TENSORS = 'adapter_model.safetensors';
const PREFIX = 'base_model.model.';
const F32 = 4;
/** Initial values that PEFT takes out of the base weights: the adapter belongs to a base that is not the original. */
const MOVES_THE_BASE = /^(pissa|olora|corda|loftq|lora_ga)/;

type Json = Readonly<Record<string, unknown>>;

/** What decides how the tensors are read. */
export interface LoraConfig {
  readonly file: string;
  readonly rank: number;
  readonly alpha: number;
  /** s = α/√r (rank-stabilised, arXiv 2312.03732) in place of α/r. */
  readonly rankStabilised: boolean;
  /** Names of modules, when it is a list. */
  readonly targets: readonly string[];
  /** Module pattern → rank and α of the modules it matches. */
  readonly ranks: ReadonlyMap<RegExp, number>;
  readonly alphas: ReadonlyMap<RegExp, number>;
}

/** Reads `directory`/adapter_config.json. Throws one line naming the field, what was expected and what came. */
export function readLoraConfig(directory: string): LoraConfig {
  const file = join(directory, ADAPTER_CONFIG);
  const json = parsed(file);
  const refuse = (field: string, expected: string): never => {
    throw new Error(
      `can't use this adapter: expected ${field} to be ${expected}, but ${file} has ${shown(json[field])}`,
    );
  };
  refuseWhatWeCannotMerge(json, refuse);
  const [rank, alpha, targets] = [json['r'], json['lora_alpha'] ?? 8, json['target_modules']];
  return {
    file,
    rank: isCount(rank) ? rank : refuse('r', 'a positive whole number'),
    alpha: isNumber(alpha) ? alpha : refuse('lora_alpha', 'a number'),
    rankStabilised: json['use_rslora'] === true,
    targets: Array.isArray(targets) ? targets.map(String) : [],
    ranks: patterns(json, 'rank_pattern', isCount, refuse),
    alphas: patterns(json, 'alpha_pattern', isNumber, refuse),
  };
}

/**
 * Reads the adapter in `directory` for `weights`. Throws one line on a tensor that the model lacks, that has another shape or type, and on a pair or a target module
 * that is not there.
 */
export function readLora(directory: string, weights: ModelWeights): LoraAdapter {
  const config = readLoraConfig(directory);
  const file = join(directory, ADAPTER_TENSORS);
  if (!existsSync(file)) {
    throw new Error(
      `expected ${ADAPTER_TENSORS} beside ${config.file}, but there is none; save the adapter by safetensors`,
    );
  }
  const tensors = new Map(readHeader(file).map((tensor) => [tensor.name, tensor]));
  const adapter = new Map<string, LoraPair>();
  for (const matrix of matricesOf(weights)) {
    const pair = readPair(matrix, tensors, config, file);
    if (pair) adapter.set(matrix.name, pair);
  }
  const [stranger] = tensors.keys();
  if (stranger !== undefined) {
    throw new Error(
      `can't use this adapter: ${file} has ${stranger}, which is lora_A or lora_B of no linear layer of this model; expected names like ${tensorName(matricesOf(weights)[0] as DenseMatrix, 'A')}`,
    );
  }
  for (const target of config.targets) {
    if ([...adapter.keys()].some((name) => `.${moduleOf(name)}`.endsWith(`.${target}`))) continue;
    throw new Error(
      `can't use this adapter: ${config.file} has ${target} among target_modules, but ${file} has no bf16, fp16 or fp32 tensors of it`,
    );
  }
  return adapter;
}

/** sha256 of both files: which adapter it is. */
export function loraDigest(directory: string): string {
  const hash = createHash('sha256');
  for (const name of [ADAPTER_CONFIG, ADAPTER_TENSORS]) hash.update(readFileSync(join(directory, name)));
  return hash.digest('hex');
}

/** Writes an adapter whose pairs share rank and scaling, fp32, into `directory`, making it if need be. `base`: the model it is for. Durable when it returns. */
export function writeLora(directory: string, adapter: LoraAdapter, base: string): void {
  const [first] = adapter.values();
  if (!first) throw new Error('expected an adapter of at least one matrix');
  const { rank, scaling } = first;
  const modules = [...adapter.keys()].map((name) => moduleOf(name).split('.').at(-1) as string);
  const config = {
    ...{ peft_type: 'LORA', task_type: 'CAUSAL_LM', base_model_name_or_path: base },
    ...{ r: rank, lora_alpha: rank * scaling, target_modules: [...new Set(modules)] },
    ...{ bias: 'none', fan_in_fan_out: false, inference_mode: true, lora_dropout: 0 },
    ...{ use_rslora: false, use_dora: false, modules_to_save: null, rank_pattern: {}, alpha_pattern: {} },
  };
  mkdirSync(directory, { recursive: true });
  writeSafetensors(join(directory, ADAPTER_TENSORS), [...adapter].flatMap(pairTensors), { format: 'pt' });
  saveFile(directory, ADAPTER_CONFIG, `${JSON.stringify(config, null, 2)}\n`);
}

function parsed(file: string): Json {
  try {
    const value: unknown = JSON.parse(readFileSync(file, 'utf8'));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json;
  } catch (cause) {
    throw new Error(`expected valid JSON in ${file}: ${(cause as Error).message}`, { cause });
  }
  throw new Error(`expected a JSON object in ${file}`);
}

type Refuse = (field: string, expected: string) => never;

function refuseWhatWeCannotMerge(json: Json, refuse: Refuse): void {
  if (json['peft_type'] !== 'LORA') refuse('peft_type', '"LORA"');
  if ((json['bias'] ?? 'none') !== 'none') refuse('bias', '"none"');
  for (const field of ['use_dora', 'lora_bias', 'fan_in_fan_out', 'use_qalora']) {
    if (json[field] === true) refuse(field, 'false');
  }
  for (const field of ['modules_to_save', 'layer_replication', 'trainable_token_indices', 'target_parameters']) {
    if (!isEmpty(json[field])) refuse(field, 'empty');
  }
  const initial = json['init_lora_weights'];
  if (typeof initial === 'string' && MOVES_THE_BASE.test(initial)) {
    refuse('init_lora_weights', 'one that leaves the base as it is (true, false, "gaussian", "orthogonal", "eva")');
  }
}

function isEmpty(value: unknown): boolean {
  return value === undefined || value === null || (typeof value === 'object' && Object.keys(value).length === 0);
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

/** PEFT matches a key of these at the end of a module's name, after a dot or from its beginning. */
function patterns(
  json: Json,
  field: string,
  fits: (value: unknown) => value is number,
  refuse: Refuse,
): Map<RegExp, number> {
  const entries = Object.entries((json[field] ?? {}) as Json);
  return new Map(
    entries.map(([pattern, value]): [RegExp, number] => {
      if (!fits(value)) return refuse(field, 'numbers by module pattern');
      try {
        return [new RegExp(`^(?:.*\\.)?(?:${pattern})$`), value];
      } catch {
        return refuse(field, 'numbers by module pattern, a regular expression');
      }
    }),
  );
}

/** Takes the two tensors of a matrix out of `tensors`. Undefined where there are none. */
function readPair(
  matrix: DenseMatrix,
  tensors: Map<string, TensorLocation>,
  config: LoraConfig,
  file: string,
): LoraPair | undefined {
  const { rows, cols } = matrix;
  const rank = patternValue(config.ranks, matrix) ?? config.rank;
  const alpha = patternValue(config.alphas, matrix) ?? config.alpha;
  const take = (part: 'A' | 'B', shape: readonly number[]): Float32Array | undefined => {
    const name = tensorName(matrix, part);
    const tensor = tensors.get(name);
    tensors.delete(name);
    if (!tensor) return undefined;
    if (tensor.shape.join('x') === shape.join('x')) return readTensor(tensor);
    throw new Error(
      `can't use this adapter: expected ${name} to have shape ${shape.join('x')} (rank ${rank}), but ${file} has ${tensor.shape.join('x')}`,
    );
  };
  const [a, b] = [take('A', [rank, cols]), take('B', [rows, rank])];
  if (!a && !b) return undefined;
  if (!a || !b) {
    throw new Error(
      `can't use this adapter: expected ${tensorName(matrix, a ? 'B' : 'A')} in ${file}, but it has only its partner`,
    );
  }
  return { rank, scaling: alpha / (config.rankStabilised ? Math.sqrt(rank) : rank), a, b };
}

function patternValue(patterns: ReadonlyMap<RegExp, number>, { name }: DenseMatrix): number | undefined {
  for (const [pattern, value] of patterns) if (pattern.test(moduleOf(name))) return value;
  return undefined;
}

function readTensor({ file, offset, bytes, type, shape }: TensorLocation): Float32Array {
  const count = shape.reduce((product, length) => product * length, 1);
  const raw = new Uint8Array(bytes);
  const descriptor = openSync(file, 'r');
  const buffers = new Buffers();
  try {
    for (let done = 0; done < bytes;) {
      const got = readSync(descriptor, raw, done, bytes - done, offset + done);
      if (got === 0) throw new Error(`${file} ended inside a tensor`);
      done += got;
    }
    const [stored, wide] = [buffers.alloc(bytes), buffers.alloc(count * F32)];
    native.write(stored, 0, raw);
    native.toF32(wide, stored, type, count);
    const values = new Float32Array(count);
    native.read(wide, 0, values);
    return values;
  } finally {
    closeSync(descriptor);
    buffers.dispose();
  }
}

function pairTensors([name, { a, b, rank }]: readonly [string, LoraPair]): TensorToWrite[] {
  const tensor = (part: 'A' | 'B', shape: readonly number[], values: Float32Array): TensorToWrite => {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    return {
      name: tensorName({ name }, part),
      type: 'F32',
      shape,
      read: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
    };
  };
  return [tensor('A', [rank, a.length / rank], a), tensor('B', [b.length / rank, rank], b)];
}

function moduleOf(name: string): string {
  return name.replace(/\.weight$/, '');
}

function tensorName({ name }: { readonly name: string }, part: 'A' | 'B'): string {
  return `${PREFIX}${moduleOf(name)}.lora_${part}.weight`;
}

function shown(value: unknown): string {
  return value === undefined ? 'nothing' : JSON.stringify(value);
}
