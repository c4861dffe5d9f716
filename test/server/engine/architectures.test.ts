/**
 * Every architecture the engine claims, against Hugging Face transformers: random-weight miniatures and their fp32 logits, made by
 * test/fixtures/architectures/make.py. Then what it must refuse, with the field and the value.
 */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { native } from '../../../kernels/index.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { departure, forcedDepartures, NEAR_TIE } from '../../model/checks.js';
import { greedy, logitsOf, TOKEN_BY_TOKEN, WHOLE, type Chunks } from '../../model/in-process.js';

interface Expected {
  readonly prompt: readonly number[];
  readonly logits: string;
  readonly bf16Weights?: string;
  readonly greedy: readonly number[];
  readonly margins: readonly number[];
}

const FIXTURES = fileURLToPath(new URL('../../../../test/fixtures/architectures', import.meta.url));
const NAMES = readdirSync(FIXTURES, { withFileTypes: true }).flatMap((e) => (e.isDirectory() ? [e.name] : []));
/** ‖ours − theirs‖ / ‖theirs‖ of the worst position. Rounding to bf16 alone costs up to 5.3e-3. */
const DEFAULT_TOLERANCE = 1e-2;
/** Two fp32 computations in different orders; transformers' own is 4e-7 from fp64. */
const F32_TOLERANCE = 5e-6;
/** Nats by which a greedy step may be lost. */
const TIE = { bf16: NEAR_TIE, f32: 1e-4 } as const;

for (const name of NAMES) {
  describe(`a ${name} miniature`, () => {
    const directory = join(FIXTURES, name);
    const expected = JSON.parse(readFileSync(join(directory, 'expected.json'), 'utf8')) as Expected;
    const cases = { ids: expected.prompt, continuation: expected.greedy, margins: expected.margins, prompt: name };
    const usage = native.usage();
    let model: Model;
    before(() => {
      model = loadModel(directory, { threads: 2 });
    });
    after(() => {
      native.setPrecision('bf16');
      model.dispose();
      assert.deepEqual(native.usage(), usage, 'every buffer is given back');
    });

    it('has the logits of transformers within 1e-2 of their norm at every position', (t) => {
      native.setPrecision('bf16');
      const error = worstError(logitsOf(model, expected.prompt), decoded(expected.logits), model.config.vocab);
      t.diagnostic(`${name}: ${error.toExponential(2)}`);
      assert.ok(error <= DEFAULT_TOLERANCE, `relative error ${error}`);
    });

    it('has them to fp32 rounding when activations keep fp32, for the weights it holds', (t) => {
      native.setPrecision('f32');
      const theirs = decoded(expected.bf16Weights ?? expected.logits);
      const error = worstError(logitsOf(model, expected.prompt), theirs, model.config.vocab);
      t.diagnostic(`${name}: ${error.toExponential(2)}`);
      assert.ok(error <= F32_TOLERANCE, `relative error ${error}`);
    });

    for (const precision of ['bf16', 'f32'] as const) {
      it(`computes the same in one prefill, in chunks and token by token (${precision})`, () => {
        native.setPrecision(precision);
        const whole = logitsOf(model, expected.prompt, WHOLE);
        for (const chunks of [TOKEN_BY_TOKEN, [7, 1, 16], [31, 2]] satisfies Chunks[]) {
          const error = worstError(logitsOf(model, expected.prompt, chunks), whole, model.config.vocab);
          assert.ok(error <= 1e-6, `chunks of ${chunks.join(', ')}: relative error ${error}`);
        }
      });

      it(`continues greedily as transformers does, up to near-ties (${precision})`, () => {
        if (expected.bf16Weights) return; // other weights than the continuation was made with
        native.setPrecision(precision);
        const free = departure(greedy(model, expected.prompt, expected.greedy.length), cases);
        for (const { step, margin } of [...(free ? [free] : []), ...forcedDepartures(model, cases)]) {
          assert.ok(margin < TIE[precision], `another token at step ${step}, where the margin is ${margin}`);
        }
      });
    }
  });
}

describe('a model in several files', () => {
  let scratch: string;
  before(() => {
    scratch = mkdtempSync(join(tmpdir(), 'maskserve-shards-'));
  });
  after(() => rmSync(scratch, { recursive: true }));

  it('is the same model, with the same base digest, as in one file', () => {
    const sharded = join(FIXTURES, 'llama-sharded');
    cpSync(join(sharded, 'config.json'), join(scratch, 'config.json'));
    writeFileSync(join(scratch, 'model.safetensors'), merged(sharded));
    const [one, several] = [loadModel(scratch), loadModel(sharded)];
    assert.equal(one.info.base, several.info.base);
    assert.equal(one.info.parameters, several.info.parameters);
    assert.deepEqual(logitsOf(one, [5, 6, 7]), logitsOf(several, [5, 6, 7]));
    one.dispose();
    several.dispose();
  });

  for (const name of ['llama-bias', 'llama-f32']) {
    it(`may have its tensors at odd offsets, which the format allows (${name})`, () => {
      const aligned = join(FIXTURES, name);
      const directory = join(scratch, `odd-${name}`);
      cpSync(aligned, directory, { recursive: true });
      const { header, data } = parts(join(aligned, 'model.safetensors'));
      for (let spaces = 0; spaces < 4; spaces++) {
        writeFileSync(join(directory, 'model.safetensors'), file(header, data, spaces));
        const [odd, even] = [loadModel(directory), loadModel(aligned)];
        assert.equal(odd.info.base, even.info.base);
        assert.deepEqual(logitsOf(odd, [5, 6, 7]), logitsOf(even, [5, 6, 7]));
        odd.dispose();
        even.dispose();
      }
    });
  }
});

describe('what config.json says', () => {
  const info = (name: string): Model['info'] => {
    const model = loadModel(join(FIXTURES, name));
    model.dispose();
    return model.info;
  };

  it('joins the end tokens of config.json and generation_config.json', () => {
    assert.deepEqual([...info('llama3').eosIds].sort(), [124, 126, 127]);
    assert.equal(info('llama3').bosId, 125);
  });

  it('counts a tied head once', () => {
    const { parameters, vocabularySize } = info('smollm2');
    assert.equal(vocabularySize, 128);
    // embedding + 2 × (q, o 48×48; k, v 16×48; gate, up, down 128×48; two norms) + last norm
    assert.equal(parameters, 128 * 48 + 2 * (2 * 48 * 48 + 2 * 16 * 48 + 3 * 128 * 48 + 2 * 48) + 48);
  });

  it('names the architecture and its seven masked matrices a layer', () => {
    assert.equal(info('qwen3').architecture, 'Qwen3ForCausalLM');
    const names = info('mistral-head-dim').maskable.map(({ name, rows, cols }) => `${name} ${rows}x${cols}`);
    assert.equal(names.length, 14);
    assert.ok(names.includes('model.layers.1.self_attn.q_proj.weight 64x48'), names.join('\n'));
  });
});

type Config = Record<string, unknown>;

describe('a model it cannot run is refused', () => {
  let scratch: string;
  before(() => {
    scratch = mkdtempSync(join(tmpdir(), 'maskserve-refused-'));
  });
  after(() => rmSync(scratch, { recursive: true }));

  let folders = 0;
  const copyOf = (name: string, changes: Config = {}): string => {
    const directory = join(scratch, `${name}-${folders++}`);
    cpSync(join(FIXTURES, name), directory, { recursive: true });
    const file = join(directory, 'config.json');
    const config = { ...(JSON.parse(readFileSync(file, 'utf8')) as Config), ...changes };
    writeFileSync(file, JSON.stringify(config));
    return directory;
  };

  /** Loading fails with one line that has all the words, and gives every buffer back. */
  const refused = (directory: string, ...words: string[]): void => {
    const usage = native.usage();
    assert.throws(
      () => loadModel(directory).dispose(),
      (error: Error) => {
        assert.ok(!error.message.includes('\n'), `more than one line: ${error.message}`);
        for (const word of words) assert.ok(error.message.includes(word), `expected "${word}" in: ${error.message}`);
        return true;
      },
    );
    assert.deepEqual(native.usage(), usage, 'every buffer is given back');
  };

  const byField: readonly [why: string, changes: Config, ...words: string[]][] = [
    ['another architecture', { model_type: 'gemma2' }, 'model_type', '"gemma2"', 'llama'],
    ['no architecture', { model_type: undefined }, 'model_type', 'nothing'],
    ['another activation', { hidden_act: 'gelu' }, 'hidden_act', '"gelu"', '"silu"'],
    ['YaRN', { rope_scaling: { rope_type: 'yarn', factor: 4 } }, 'rope_scaling', '"yarn"'],
    [
      'dynamic NTK, in the older spelling',
      { rope_scaling: { type: 'dynamic', factor: 2 } },
      'rope_scaling',
      '"dynamic"',
    ],
    [
      'LongRoPE, as transformers 5 writes it',
      { rope_parameters: { rope_type: 'longrope' } },
      'rope_parameters',
      '"longrope"',
    ],
    ['llama3 scaling without a factor', { rope_scaling: { rope_type: 'llama3' } }, 'rope_scaling', 'factor', 'nothing'],
    ['a rotary base of 0', { rope_theta: 0 }, 'rope_theta', '0'],
    ['rotation of half a head', { partial_rotary_factor: 0.5 }, 'partial_rotary_factor', '0.5'],
    ['quantised weights', { quantization_config: { quant_method: 'gptq', bits: 4 } }, 'quantization_config', '"gptq"'],
    ['heads that kv-heads do not divide', { num_key_value_heads: 3 }, 'num_key_value_heads', '3'],
    ['an odd head', { head_dim: 15 }, 'head_dim', '15'],
    ['a hidden size that is text', { hidden_size: '32' }, 'hidden_size', '"32"'],
    ['no vocabulary size', { vocab_size: undefined }, 'vocab_size', 'nothing'],
    ['no layers', { num_hidden_layers: 0 }, 'num_hidden_layers', '0'],
    ['half a layer', { num_hidden_layers: 1.5 }, 'num_hidden_layers', '1.5'],
    ['a negative epsilon', { rms_norm_eps: -1 }, 'rms_norm_eps', '-1'],
    ['no context', { max_position_embeddings: null }, 'max_position_embeddings', 'null'],
  ];
  for (const [why, changes, ...words] of byField) {
    it(`for ${why}: ${words.join(' ')}`, () => refused(copyOf('llama-sharded', changes), ...words));
  }

  it('for a tensor of another shape: its name, the shape expected and the one found', () => {
    const tensor = 'model.layers.0.mlp.gate_proj.weight';
    refused(copyOf('llama-sharded', { intermediate_size: 80 }), tensor, '80x32', '64x32');
    refused(copyOf('llama-sharded', { vocab_size: 256 }), 'model.embed_tokens.weight', '256x32', '128x32');
  });

  it('for a missing tensor: its name', () => {
    refused(copyOf('llama-sharded', { num_hidden_layers: 3 }), 'model.layers.2.', '32');
    refused(copyOf('smollm2', { tie_word_embeddings: false }), 'lm_head.weight', '128x48');
    refused(copyOf('llama-sharded', { attention_bias: true }), 'model.layers.0.self_attn.q_proj.bias');
    refused(copyOf('llama-sharded', { model_type: 'qwen3' }), 'model.layers.0.self_attn.q_norm.weight');
  });

  it('for a missing directory, configuration or weight file: its path', () => {
    refused(join(scratch, 'nowhere'), join(scratch, 'nowhere'));
    const empty = join(scratch, 'empty');
    cpSync(join(FIXTURES, 'llama3', 'generation_config.json'), join(empty, 'generation_config.json'));
    refused(empty, join(empty, 'config.json'));
    const bare = copyOf('llama3');
    rmSync(join(bare, 'model.safetensors'));
    refused(bare, join(bare, 'model.safetensors'), 'index.json');
    const part = copyOf('llama-sharded');
    rmSync(join(part, 'model-00002-of-00003.safetensors'));
    refused(part, 'model-00002-of-00003.safetensors');
  });

  it('for a configuration or an index that is not JSON: the file', () => {
    const config = copyOf('llama3');
    writeFileSync(join(config, 'config.json'), '{"model_type": "llama",');
    refused(config, join(config, 'config.json'), 'JSON');
    const index = copyOf('llama-sharded');
    writeFileSync(join(index, 'model.safetensors.index.json'), 'weight_map');
    refused(index, join(index, 'model.safetensors.index.json'));
  });

  it('for an index that leads out of the directory', () => {
    const directory = copyOf('llama-sharded');
    writeFileSync(
      join(directory, 'model.safetensors.index.json'),
      JSON.stringify({ weight_map: { 'model.norm.weight': '../llama3/model.safetensors' } }),
    );
    refused(directory, '../llama3/model.safetensors');
  });

  it('for a weight file cut short, at any point: the file', () => {
    const bytes = readFileSync(join(FIXTURES, 'llama3', 'model.safetensors'));
    const header = Number(bytes.readBigUInt64LE());
    for (const length of [0, 7, 8, 8 + header - 1, 8 + header, bytes.length - 1]) {
      const directory = copyOf('llama3');
      const file = join(directory, 'model.safetensors');
      truncateSync(file, length);
      refused(directory, file);
    }
  });

  it('for a safetensors header with absurd lengths, shapes or offsets: the file', () => {
    const whole = readFileSync(join(FIXTURES, 'llama3', 'model.safetensors'));
    const absurd = Buffer.from(whole);
    absurd.writeBigUInt64LE(2n ** 63n);
    const norm = (entry: unknown): Buffer => file({ 'model.norm.weight': entry }, Buffer.alloc(128));
    const variants: Buffer[] = [
      absurd,
      norm({ dtype: 'BF16', shape: [64], data_offsets: [0, 1 << 30] }),
      norm({ dtype: 'BF16', shape: [64], data_offsets: [64, 192] }),
      norm({ dtype: 'BF16', shape: [64], data_offsets: [-64, 64] }),
      norm({ dtype: 'BF16', shape: [2 ** 52, 2 ** 52], data_offsets: [0, 128] }),
      norm({ dtype: 'BF16', shape: [-64], data_offsets: [0, 128] }),
      norm({ dtype: 'BF16', shape: 'all', data_offsets: [0, 128] }),
      norm({ dtype: 'BF16' }),
      norm(null),
      Buffer.concat([Buffer.from([3, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('[1]')]),
    ];
    for (const bytes of variants) {
      const directory = copyOf('llama3');
      writeFileSync(join(directory, 'model.safetensors'), bytes);
      refused(directory, join(directory, 'model.safetensors'));
    }
  });

  it('for weights of an element type it does not read: the tensor and the types it reads', () => {
    const directory = copyOf('llama3');
    const path = join(directory, 'model.safetensors');
    const { header, data } = parts(path);
    const name = 'model.layers.0.self_attn.q_proj.weight';
    header[name] = { ...header[name]!, dtype: 'I16' };
    writeFileSync(path, file(header, data));
    refused(directory, name, 'bf16, fp16 or fp32');
  });

  it('but not for further tensors that it has no use for, of whatever type', () => {
    const directory = copyOf('llama3');
    const path = join(directory, 'model.safetensors');
    const { header, data } = parts(path);
    header['model.position_ids'] = { dtype: 'I64', shape: [1], data_offsets: [data.length, data.length + 8] };
    writeFileSync(path, file(header, Buffer.concat([data, Buffer.alloc(8)])));
    loadModel(directory).dispose();
  });
});

interface TensorEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

/** A safetensors file, taken apart and put together. */
function parts(path: string): { header: Record<string, TensorEntry>; data: Buffer } {
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<string, TensorEntry>;
  delete header['__metadata__'];
  return { header, data: bytes.subarray(8 + length) };
}

/** Without `spaces` the header is padded to 8 bytes, as the library does; with them it is that much longer than its JSON. */
function file(header: Record<string, unknown>, data: Buffer, spaces?: number): Buffer {
  const json = JSON.stringify(header);
  const text = Buffer.from(json + ' '.repeat(spaces ?? -json.length & 7));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, data]);
}

/** All the shards of a directory in one file, in reverse order. */
function merged(directory: string): Buffer {
  const header: Record<string, TensorEntry> = {};
  let data = Buffer.alloc(0);
  for (const shard of readdirSync(directory)
    .filter((name) => name.endsWith('.safetensors'))
    .reverse()) {
    const part = parts(join(directory, shard));
    for (const [name, entry] of Object.entries(part.header)) {
      const [begin, end] = entry.data_offsets;
      header[name] = { ...entry, data_offsets: [begin + data.length, end + data.length] };
    }
    data = Buffer.concat([data, part.data]);
  }
  return file(header, data);
}

/** (T, V) fp32, as expected.json holds it. */
function decoded(base64: string): Float32Array {
  const bytes = Buffer.from(base64, 'base64');
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

/** Largest ‖a − b‖ / ‖b‖ over the rows of (T, V). */
function worstError(a: Float32Array, b: Float32Array, vocab: number): number {
  assert.equal(a.length, b.length);
  let worst = 0;
  for (let row = 0; row < a.length; row += vocab) {
    let difference = 0;
    let norm = 0;
    for (let i = row; i < row + vocab; i++) {
      difference += ((a[i] as number) - (b[i] as number)) ** 2;
      norm += (b[i] as number) ** 2;
    }
    worst = Math.max(worst, Math.sqrt(difference / norm));
  }
  assert.ok(!Number.isNaN(worst), 'a logit is not a number');
  return worst;
}
