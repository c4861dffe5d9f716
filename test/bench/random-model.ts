/** Writes a random-weight LLaMA as a Hugging Face directory: for speed, the weights' values do not matter. */
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';

export interface RandomShape {
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly ffn: number;
  readonly vocab: number;
  readonly context: number;
}

/** 162.4 M parameters, 113.2 M of them in its 84 masked matrices. */
export const LLAMA_162M: RandomShape = {
  hidden: 768,
  layers: 12,
  heads: 12,
  kvHeads: 12,
  ffn: 3072,
  vocab: 32000,
  context: 2048,
};

/** TinyLlama's shape (arXiv 2401.02385): 1,100 M parameters, 969 M of them in its 154 masked matrices. */
export const LLAMA_1100M: RandomShape = {
  hidden: 2048,
  layers: 22,
  heads: 32,
  kvHeads: 4,
  ffn: 5632,
  vocab: 32000,
  context: 2048,
};

interface Tensor {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Untied head, bf16, N(0, 0.02)-like weights, unit norm gains. No tokenizer: prompts are token ids. */
export function writeRandomModel(directory: string, shape: RandomShape, seed = 1): void {
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'config.json'), JSON.stringify(config(shape), null, 2));
  const tensors = tensorsOf(shape);
  let offset = 0;
  const header: Record<string, unknown> = {};
  for (const { name, shape: dims } of tensors) {
    const bytes = elements(dims) * 2;
    header[name] = { dtype: 'BF16', shape: dims, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  const text = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, 0x20)]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  const file = openSync(join(directory, 'model.safetensors'), 'w');
  try {
    writeSync(file, Buffer.concat([length, padded]));
    const weights = randomBf16(1 << 20, seed);
    for (const tensor of tensors) writeTensor(file, tensor, weights);
  } finally {
    closeSync(file);
  }
}

function config(shape: RandomShape): object {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: shape.hidden,
    intermediate_size: shape.ffn,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.kvHeads,
    vocab_size: shape.vocab,
    max_position_embeddings: shape.context,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: 'silu',
    tie_word_embeddings: false,
    eos_token_id: 2,
    bos_token_id: 1,
    torch_dtype: 'bfloat16',
  };
}

function tensorsOf({ hidden, layers, heads, kvHeads, ffn, vocab }: RandomShape): Tensor[] {
  const kvRows = (hidden / heads) * kvHeads;
  const list: Tensor[] = [{ name: 'model.embed_tokens.weight', shape: [vocab, hidden] }];
  for (let i = 0; i < layers; i++) {
    const part = (name: string, ...shape: number[]): Tensor => ({ name: `model.layers.${i}.${name}.weight`, shape });
    list.push(
      part('input_layernorm', hidden),
      part('self_attn.q_proj', hidden, hidden),
      part('self_attn.k_proj', kvRows, hidden),
      part('self_attn.v_proj', kvRows, hidden),
      part('self_attn.o_proj', hidden, hidden),
      part('post_attention_layernorm', hidden),
      part('mlp.gate_proj', ffn, hidden),
      part('mlp.up_proj', ffn, hidden),
      part('mlp.down_proj', hidden, ffn),
    );
  }
  list.push({ name: 'model.norm.weight', shape: [hidden] }, { name: 'lm_head.weight', shape: [vocab, hidden] });
  return list;
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

/** One pool of random values, repeated at a different phase in every tensor. */
function randomBf16(count: number, seed: number): Uint16Array {
  const values = new Float32Array(count);
  let state = seed >>> 0 || 1;
  for (let i = 0; i < count; i++) {
    let sum = 0;
    for (let j = 0; j < 4; j++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      sum += state / 2 ** 32 - 0.5;
    }
    values[i] = sum * 0.035;
  }
  return Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
}

function writeTensor(file: number, { name, shape }: Tensor, pool: Uint16Array): void {
  const count = elements(shape);
  if (shape.length === 1) {
    writeSync(file, Buffer.from(new Uint16Array(count).fill(0x3f80).buffer)); // 1.0
    return;
  }
  const phase = [...name].reduce((hash, character) => (Math.imul(hash, 31) + character.charCodeAt(0)) >>> 0, 7);
  for (let done = 0; done < count;) {
    const start = (phase + done) % pool.length;
    const length = Math.min(count - done, pool.length - start);
    writeSync(file, Buffer.from(pool.buffer, pool.byteOffset + start * 2, length * 2));
    done += length;
  }
}
