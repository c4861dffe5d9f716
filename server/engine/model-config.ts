/**
 * config.json of a Hugging Face LLaMA-family directory → the few numbers the forward pass needs. A model that can't be run exactly
 * is refused here, before a weight is read, with the field and its value.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface RopeConfig {
  readonly theta: number;
  /** LLaMA 3's frequency-dependent scaling (transformers' `_compute_llama3_parameters`), or division by a factor. */
  readonly scaling:
    | { readonly kind: 'none' }
    | { readonly kind: 'linear'; readonly factor: number }
    | {
        readonly kind: 'llama3';
        readonly factor: number;
        readonly lowFreqFactor: number;
        readonly highFreqFactor: number;
        readonly originalContext: number;
      };
}

export interface ModelConfig {
  readonly architecture: string;
  readonly layers: number;
  /** D */
  readonly hidden: number;
  /** F */
  readonly ffn: number;
  /** H */
  readonly heads: number;
  /** KV */
  readonly kvHeads: number;
  readonly headDim: number;
  /** V */
  readonly vocab: number;
  readonly context: number;
  readonly normEps: number;
  readonly rope: RopeConfig;
  readonly tiedHead: boolean;
  /** Qwen3: RMSNorm over each head's query and key. */
  readonly qkNorm: boolean;
  /** Biases that the architecture has; a missing tensor of these is an error. */
  readonly bias: { readonly qkv: boolean; readonly o: boolean; readonly mlp: boolean };
  /** Sliding window of each layer; 0: full attention. */
  readonly windows: readonly number[];
  readonly bosId: number | undefined;
  readonly eosIds: readonly number[];
}

const ARCHITECTURES: Readonly<Record<string, string>> = {
  llama: 'LlamaForCausalLM',
  mistral: 'MistralForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
  qwen3: 'Qwen3ForCausalLM',
};

/** transformers' defaults for absent fields. */
const MISTRAL_WINDOW = 4096;
const QWEN3_HEAD_DIM = 128;

type Json = Record<string, unknown>;

/** Reads `directory`/config.json. Throws one line naming the file, the field and the value. */
export function readModelConfig(directory: string): ModelConfig {
  const file = join(directory, 'config.json');
  const json = readJson(file);
  const fields = new Fields(json, file);
  const type = fields.text('model_type');
  const architecture = ARCHITECTURES[type];
  if (!architecture) {
    fields.refuse('model_type', Object.keys(ARCHITECTURES).join(', '));
  }
  refuseWhatWeCannotRun(json, fields);
  const hidden = fields.count('hidden_size');
  const heads = fields.count('num_attention_heads');
  const kvHeads = fields.count('num_key_value_heads', heads);
  const headDim = fields.count('head_dim', type === 'qwen3' ? QWEN3_HEAD_DIM : hidden / heads);
  if (heads % kvHeads !== 0) fields.refuse('num_key_value_heads', `a divisor of num_attention_heads ${heads}`);
  if (headDim % 2 !== 0) fields.refuse('head_dim', 'an even number');
  const layers = fields.count('num_hidden_layers');
  return {
    architecture: architecture as string,
    layers,
    hidden,
    ffn: fields.count('intermediate_size'),
    heads,
    kvHeads,
    headDim,
    vocab: fields.count('vocab_size'),
    context: fields.count('max_position_embeddings'),
    normEps: fields.number('rms_norm_eps', 1e-6),
    rope: ropeConfig(json, fields),
    tiedHead: json['tie_word_embeddings'] === true,
    qkNorm: type === 'qwen3',
    bias: {
      qkv: type === 'qwen2' || json['attention_bias'] === true,
      o: type !== 'qwen2' && json['attention_bias'] === true,
      mlp: json['mlp_bias'] === true,
    },
    windows: slidingWindows(json, fields, type, layers),
    bosId: ids(json['bos_token_id'])[0],
    eosIds: [...new Set([...ids(json['eos_token_id']), ...generationEos(directory)])],
  };
}

function readJson(file: string): Json {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new Error(
      `expected a Hugging Face model directory with ${file}, but it can't be read: ${(cause as Error).message}`,
      { cause },
    );
  }
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json;
  } catch (cause) {
    throw new Error(`${file} is not valid JSON: ${(cause as Error).message}`, { cause });
  }
  throw new Error(`expected a JSON object in ${file}`);
}

/** Typed access to config.json: every complaint names the file, the field, what was expected and what came. */
class Fields {
  constructor(
    private readonly json: Json,
    private readonly file: string,
  ) {}

  refuse(field: string, expected: string, value: unknown = this.json[field]): never {
    throw new Error(`can't run this model: expected ${field} to be ${expected}, but ${this.file} has ${show(value)}`);
  }

  text(field: string): string {
    const value = this.json[field];
    return typeof value === 'string' ? value : this.refuse(field, 'a string');
  }

  number(field: string, fallback?: number): number {
    const value = this.json[field] ?? fallback;
    return typeof value === 'number' && Number.isFinite(value) && value > 0
      ? value
      : this.refuse(field, 'a positive number');
  }

  count(field: string, fallback?: number): number {
    const value = this.json[field] ?? fallback;
    return typeof value === 'number' && Number.isSafeInteger(value) && value > 0 && value < 2 ** 31
      ? value
      : this.refuse(field, 'a positive whole number');
  }
}

function show(value: unknown): string {
  return value === undefined ? 'nothing' : JSON.stringify(value);
}

function refuseWhatWeCannotRun(json: Json, fields: Fields): void {
  if ((json['hidden_act'] ?? 'silu') !== 'silu') fields.refuse('hidden_act', '"silu"');
  if (json['quantization_config'] !== undefined && json['quantization_config'] !== null) {
    fields.refuse('quantization_config', 'absent (bf16, fp16 or fp32 weights)');
  }
  const rotary = json['partial_rotary_factor'] ?? 1;
  if (rotary !== 1) fields.refuse('partial_rotary_factor', '1');
  if ((json['pretraining_tp'] ?? 1) !== 1) fields.refuse('pretraining_tp', '1');
}

/** transformers ≤ 4 writes rope_theta and rope_scaling, 5 writes rope_parameters. */
function ropeConfig(json: Json, fields: Fields): RopeConfig {
  const field = json['rope_parameters'] ? 'rope_parameters' : 'rope_scaling';
  const scaling = (json[field] ?? {}) as Json;
  const theta = scaling['rope_theta'] ?? json['rope_theta'] ?? 10000;
  if (typeof theta !== 'number' || !(theta > 0)) fields.refuse('rope_theta', 'a positive number', theta);
  if ((scaling['partial_rotary_factor'] ?? 1) !== 1) fields.refuse(`${field}.partial_rotary_factor`, '1', scaling);
  const kind = scaling['rope_type'] ?? scaling['type'] ?? 'default';
  const part = (name: string, fallback?: unknown): number => {
    const value = scaling[name] ?? fallback;
    return typeof value === 'number' && value > 0
      ? value
      : fields.refuse(`${field}.${name}`, 'a positive number', value);
  };
  switch (kind) {
    case 'default':
      return { theta: theta as number, scaling: { kind: 'none' } };
    case 'linear':
      return { theta: theta as number, scaling: { kind: 'linear', factor: part('factor') } };
    case 'llama3':
      return {
        theta: theta as number,
        scaling: {
          kind: 'llama3',
          factor: part('factor'),
          lowFreqFactor: part('low_freq_factor'),
          highFreqFactor: part('high_freq_factor'),
          originalContext: part('original_max_position_embeddings'),
        },
      };
    default:
      return fields.refuse(`${field}.rope_type`, '"default", "linear" or "llama3"', kind);
  }
}

/**
 * Mistral slides in every layer, by 4096 where the field is absent (transformers' default); Qwen2 and Qwen3 in the layers that
 * `layer_types` names, else from max_window_layers on, if use_sliding_window. LLaMA never does (transformers ignores the field there).
 */
function slidingWindows(json: Json, fields: Fields, type: string, layers: number): number[] {
  const full = new Array<number>(layers).fill(0);
  if (type === 'mistral') {
    const window = json['sliding_window'] === null ? 0 : fields.count('sliding_window', MISTRAL_WINDOW);
    return full.fill(window);
  }
  if (type === 'llama' || json['use_sliding_window'] !== true || (json['sliding_window'] ?? null) === null) return full;
  const window = fields.count('sliding_window');
  const types = json['layer_types'];
  if (Array.isArray(types)) {
    return full.map((_, i) => (types[i] === 'sliding_attention' ? window : 0));
  }
  const from = typeof json['max_window_layers'] === 'number' ? json['max_window_layers'] : layers;
  return full.map((_, i) => (i >= from ? window : 0));
}

function ids(value: unknown): number[] {
  const list = Array.isArray(value) ? value : [value];
  return list.filter((id): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0);
}

/** generation_config.json may name further end tokens (LLaMA 3 chat models do). */
function generationEos(directory: string): number[] {
  try {
    const json = JSON.parse(readFileSync(join(directory, 'generation_config.json'), 'utf8')) as Json;
    return ids(json['eos_token_id']);
  } catch {
    return [];
  }
}
