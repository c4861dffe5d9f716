/** A Hugging Face LLaMA directory in bf16 → a GGUF file that llama.cpp runs, without a tokenizer: prompts are token ids. */
import { closeSync } from 'node:fs';
import { basename } from 'node:path';
import { widen } from '../../../server/engine/elements.js';
import { readModelConfig, type ModelConfig } from '../../../server/engine/model-config.js';
import { locateTensors, type TensorLocation } from '../../../server/engine/safetensors.js';
import { tensorReader } from '../../../server/trainer/save-model.js';
import { type GgufTensor, type GgufValue, type TensorType, writeGguf } from './gguf-file.js';
import { q8Blocks } from './q8-blocks.js';

/** general.file_type, as llama.cpp names them. */
const FILE_TYPE = { bf16: 32, q8_0: 7 } as const;

/** Hugging Face's name within a layer → GGUF's. */
const LAYER_NAMES = {
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  post_attention_layernorm: 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
} as const;

/** Matrices in `type`, norm gains in fp32, as llama.cpp's own converter has them. Throws if the model is more than a plain LLaMA. */
export function writeGgufModel(path: string, directory: string, type: keyof typeof FILE_TYPE): void {
  const config = readModelConfig(directory);
  const { architecture, rope } = config;
  if (architecture !== 'LlamaForCausalLM' || rope.scaling.kind !== 'none')
    throw new Error(`expected a LLaMA without rope scaling in ${directory} but found ${architecture}`);
  const located = locateTensors(directory);
  const files = new Map<string, number>();
  const tensor = (name: string, as: string, heads?: number): GgufTensor => {
    const found = located.get(name);
    if (found?.type !== 'bf16') throw new Error(`expected a bf16 tensor ${name} in ${directory}`);
    return ggufTensor(found, as, type, files, heads);
  };
  const ends = [
    tensor('model.embed_tokens.weight', 'token_embd.weight'),
    tensor('model.norm.weight', 'output_norm.weight'),
    ...(config.tiedHead ? [] : [tensor('lm_head.weight', 'output.weight')]),
  ];
  const layers = Array.from({ length: config.layers }, (_, layer) =>
    Object.entries(LAYER_NAMES).map(([name, as]) =>
      tensor(`model.layers.${layer}.${name}.weight`, `blk.${layer}.${as}.weight`, rotatedHeads(as, config)),
    ),
  );
  try {
    writeGguf(path, metadata(basename(directory), config, FILE_TYPE[type]), [...ends, ...layers.flat()]);
  } finally {
    for (const file of files.values()) closeSync(file);
  }
}

function metadata(name: string, config: ModelConfig, fileType: number): GgufValue[] {
  const text = (key: string, value: string): GgufValue => ({ key, type: 'string', value });
  const count = (key: string, value: number): GgufValue => ({ key: `llama.${key}`, type: 'uint32', value });
  const real = (key: string, value: number): GgufValue => ({ key: `llama.${key}`, type: 'float32', value });
  return [
    text('general.architecture', 'llama'),
    text('general.name', name),
    { key: 'general.file_type', type: 'uint32', value: fileType },
    count('block_count', config.layers),
    count('context_length', config.context),
    count('embedding_length', config.hidden),
    count('feed_forward_length', config.ffn),
    count('attention.head_count', config.heads),
    count('attention.head_count_kv', config.kvHeads),
    count('attention.key_length', config.headDim),
    count('attention.value_length', config.headDim),
    count('rope.dimension_count', config.headDim),
    count('vocab_size', config.vocab),
    real('attention.layer_norm_rms_epsilon', config.normEps),
    real('rope.freq_base', config.rope.theta),
    text('tokenizer.ggml.model', 'no_vocab'),
  ];
}

/** llama.cpp rotates neighbouring pairs where Hugging Face rotates halves: rows of q and k change places within each head. */
function rotatedHeads(name: string, { heads, kvHeads }: ModelConfig): number | undefined {
  return name === 'attn_q' ? heads : name === 'attn_k' ? kvHeads : undefined;
}

function ggufTensor(
  location: TensorLocation,
  name: string,
  matrixType: TensorType,
  files: Map<string, number>,
  heads: number | undefined,
): GgufTensor {
  const { shape, bytes } = location;
  const type = shape.length === 1 ? 'f32' : matrixType;
  return {
    name,
    shape,
    type,
    read: () => {
      const read = new Uint8Array(bytes);
      tensorReader(location, files)(0, read);
      const weights = heads === undefined ? read : interleavedRows(read, heads, shape[0] as number);
      return type === 'bf16'
        ? weights
        : type === 'f32'
          ? widened(weights)
          : q8Blocks(new Float32Array(widened(weights).buffer));
    },
  };
}

function widened(bf16: Uint8Array): Uint8Array {
  const wide = new Uint32Array(bf16.length / 2);
  widen('bf16', bf16, wide);
  return new Uint8Array(wide.buffer);
}

/** Rows (heads, 2, hd/2) → (heads, hd/2, 2). */
function interleavedRows(bytes: Uint8Array, heads: number, rows: number): Uint8Array {
  const rowBytes = bytes.length / rows;
  const headDim = rows / heads;
  const result = new Uint8Array(bytes.length);
  for (let row = 0; row < rows; row++) {
    const [head, within] = [Math.floor(row / headDim), row % headDim];
    const [half, index] = [Math.floor(within / (headDim / 2)), within % (headDim / 2)];
    const to = head * headDim + index * 2 + half;
    result.set(bytes.subarray(row * rowBytes, (row + 1) * rowBytes), to * rowBytes);
  }
  return result;
}
