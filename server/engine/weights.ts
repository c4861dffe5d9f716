/**
 * Tensor files → the frozen weights of a model in native buffers. bf16 matrices are used where they are mapped; fp16 and fp32 ones are
 * rounded once to bf16. Shapes are checked against the configuration before anything is used.
 */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import { onTheHost } from './backend.js';
import { DeviceFull, mebibytes, WORKING_BYTES } from './device-budget.js';
import { layerShapes, linearShapes, type LinearRole } from './linear-shapes.js';
import type { ModelConfig } from './model-config.js';
import type { TensorLocation } from './safetensors.js';

const ELEMENT_BYTES = { bf16: 2, f16: 2, f32: 4 } as const;
const COPY_BYTES = 4 << 20;

/** One linear layer: w (rows, cols) bf16, bias (rows) f32 or none. */
export interface DenseMatrix {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly weight: Handle;
  readonly bias: Handle;
}

export interface LayerWeights {
  /** (D) f32 each */
  readonly inputNorm: Handle;
  readonly postNorm: Handle;
  /** (hd) f32, Qwen3 only */
  readonly qNorm: Handle;
  readonly kNorm: Handle;
  readonly q: DenseMatrix;
  readonly k: DenseMatrix;
  readonly v: DenseMatrix;
  readonly o: DenseMatrix;
  readonly gate: DenseMatrix;
  readonly up: DenseMatrix;
  readonly down: DenseMatrix;
}

export interface ModelWeights {
  /** (V, D) bf16 */
  readonly embedding: Handle;
  readonly layers: readonly LayerWeights[];
  /** (D) f32 */
  readonly norm: Handle;
  /** (V, D) bf16; the embedding itself where the head is tied */
  readonly head: Handle;
  /** Weights in all, each counted once. */
  readonly parameters: number;
  /** Names of the only linear layers that masks may cover; undefined: all. */
  readonly masked?: ReadonlySet<string>;
  /** Frees what this process allocated and unmaps the files. */
  readonly dispose: () => void;
}

/** Where weights go on a machine with a GPU. */
export interface WeightsPlace {
  /** The linear layers' matrices stay in host memory, wherever ops run. */
  readonly denseOnHost?: boolean;
  /** The most that may be taken of the GPU; undefined: what is free. */
  readonly deviceBytes?: number;
}

/**
 * Loads every tensor that `config` asks for. Throws naming the tensor, the shape expected and the one found; DeviceFull before anything is uploaded to a GPU that has
 * not the room.
 */
export function loadWeights(
  config: ModelConfig,
  tensors: ReadonlyMap<string, TensorLocation>,
  { denseOnHost = false, deviceBytes = Infinity }: WeightsPlace = {},
): ModelWeights {
  const onHost = new Set(denseOnHost ? linearShapes(config).map(({ name }) => name) : []);
  const uploaded = [...tensors].filter(([name]) => !onHost.has(name)).map(([, tensor]) => tensor);
  refuseIfTooLarge(uploaded, deviceBytes);
  const loader = new Loader(tensors, onHost);
  try {
    const { hidden, vocab } = config;
    const embedding = loader.matrix('model.embed_tokens.weight', vocab, hidden);
    const layers = Array.from({ length: config.layers }, (_, i) => loadLayer(loader, config, `model.layers.${i}`));
    const norm = loader.vector('model.norm.weight', hidden);
    const head = config.tiedHead ? embedding : loader.matrix('lm_head.weight', vocab, hidden);
    return { embedding, layers, norm, head, parameters: loader.parameters, dispose: () => loader.dispose() };
  } catch (error) {
    loader.dispose();
    throw error;
  }
}

/** The linear layers of a model in file order: what masks may cover. */
export function matricesOf({ layers, masked }: ModelWeights): DenseMatrix[] {
  const all = layers.flatMap((layer) => [layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down]);
  return masked ? all.filter(({ name }) => masked.has(name)) : all;
}

/** A GPU has what it has. */
function refuseIfTooLarge(uploaded: readonly TensorLocation[], deviceBytes: number): void {
  const { device } = native.info();
  if (device === null) return;
  let bytes = 0;
  for (const tensor of uploaded) bytes += tensor.bytes;
  const freeBytes = Math.min(deviceBytes, native.memory().freeBytes);
  if (bytes + WORKING_BYTES <= freeBytes) return;
  throw new DeviceFull(
    `can't run this model on ${device}: expected room for its ${mebibytes(bytes)} of weights and ${mebibytes(WORKING_BYTES)} of working memory, ` +
      `but ${mebibytes(freeBytes)} are free`,
    'use --dense-weights host, --backend cpu, or a GPU with more memory',
  );
}

function loadLayer(loader: Loader, config: ModelConfig, prefix: string): LayerWeights {
  const { hidden, headDim, bias } = config;
  const shapes = layerShapes(config);
  const linear = (role: LinearRole, hasBias: boolean): DenseMatrix => {
    const { name, rows, cols } = shapes[role];
    return {
      name: `${prefix}.${name}.weight`,
      rows,
      cols,
      weight: loader.matrix(`${prefix}.${name}.weight`, rows, cols),
      bias: hasBias ? loader.vector(`${prefix}.${name}.bias`, rows) : NO_BUFFER,
    };
  };
  const headNorm = (part: string): Handle =>
    config.qkNorm ? loader.vector(`${prefix}.self_attn.${part}.weight`, headDim) : NO_BUFFER;
  return {
    inputNorm: loader.vector(`${prefix}.input_layernorm.weight`, hidden),
    postNorm: loader.vector(`${prefix}.post_attention_layernorm.weight`, hidden),
    qNorm: headNorm('q_norm'),
    kNorm: headNorm('k_norm'),
    q: linear('q', bias.qkv),
    k: linear('k', bias.qkv),
    v: linear('v', bias.qkv),
    o: linear('o', bias.o),
    gate: linear('gate', bias.mlp),
    up: linear('up', bias.mlp),
    down: linear('down', bias.mlp),
  };
}

/** Keeps one mapping a file and remembers every buffer it made. */
class Loader {
  parameters = 0;
  private readonly files = new Map<string, Handle>();
  private readonly owned: Handle[] = [];

  /** @param onHost names of matrices that stay in host memory */
  constructor(
    private readonly tensors: ReadonlyMap<string, TensorLocation>,
    private readonly onHost: ReadonlySet<string>,
  ) {}

  /** (rows, cols) bf16 */
  matrix(name: string, rows: number, cols: number): Handle {
    const tensor = this.find(name, [rows, cols]);
    return this.onHost.has(name) ? onTheHost(() => this.bf16Of(tensor)) : this.bf16Of(tensor);
  }

  private bf16Of(tensor: TensorLocation): Handle {
    const elements = tensor.shape.reduce((product, length) => product * length, 1);
    const source = this.located(tensor);
    if (tensor.type === 'bf16') return source;
    const rounded = this.keep(native.alloc(elements * 2));
    native.toBf16(rounded, source, tensor.type, elements);
    this.dropUploaded(source);
    return rounded;
  }

  /** (length) f32 */
  vector(name: string, length: number): Handle {
    const tensor = this.find(name, [length]);
    const widened = this.keep(native.alloc(length * 4));
    const source = this.located(tensor);
    native.toF32(widened, source, tensor.type, length);
    this.dropUploaded(source);
    return widened;
  }

  dispose(): void {
    for (const handle of this.owned.reverse()) native.free(handle);
    this.owned.length = 0;
    this.files.clear();
  }

  private find(name: string, shape: readonly number[]): TensorLocation {
    const tensor = this.tensors.get(name);
    if (!tensor) {
      throw new Error(
        `can't run this model: expected a bf16, fp16 or fp32 tensor ${name} of shape ${shape.join('x')}, but the files have none of that type`,
      );
    }
    if (tensor.shape.join('x') !== shape.join('x')) {
      throw new Error(
        `can't run this model: expected ${name} to have shape ${shape.join('x')}, but ${tensor.file} has ${tensor.shape.join('x')}`,
      );
    }
    this.parameters += shape.reduce((product, length) => product * length, 1);
    return tensor;
  }

  /** Where ops read it: mapped, or in the memory of a GPU, which it is copied to once. */
  private located(tensor: TensorLocation): Handle {
    if (native.info().device === null) return this.mapped(tensor);
    const uploaded = this.keep(native.alloc(tensor.bytes));
    native.copy(uploaded, 0, this.file(tensor), tensor.offset, tensor.bytes);
    return uploaded;
  }

  /** A GPU's copy of what was converted: only the result is needed. */
  private dropUploaded(source: Handle): void {
    if (native.info().device === null) return;
    native.free(source);
    this.owned.splice(this.owned.lastIndexOf(source), 1);
  }

  private mapped(tensor: TensorLocation): Handle {
    const view = this.keep(native.view(this.file(tensor), tensor.offset, tensor.bytes));
    return tensor.offset % ELEMENT_BYTES[tensor.type] === 0 ? view : this.copied(view, tensor.bytes);
  }

  private file(tensor: TensorLocation): Handle {
    let file = this.files.get(tensor.file);
    if (file === undefined) {
      file = this.keep(native.mapFile(tensor.file, 0, fileBytes(this.tensors, tensor.file)));
      this.files.set(tensor.file, file);
    }
    return file;
  }

  /** The format does not align tensors (its library does): ops need whole elements, so the rare odd file is copied. */
  private copied(view: Handle, bytes: number): Handle {
    const copy = this.keep(native.alloc(bytes));
    for (let done = 0; done < bytes; done += COPY_BYTES) {
      const chunk = new Uint8Array(Math.min(COPY_BYTES, bytes - done));
      native.read(view, done, chunk);
      native.write(copy, done, chunk);
    }
    return copy;
  }

  private keep(handle: Handle): Handle {
    this.owned.push(handle);
    return handle;
  }
}

/** The header has been checked against the file's size, so the last tensor's end is inside the file. */
function fileBytes(tensors: ReadonlyMap<string, TensorLocation>, file: string): number {
  let end = 0;
  for (const tensor of tensors.values()) {
    if (tensor.file === file) end = Math.max(end, tensor.offset + tensor.bytes);
  }
  return end;
}
