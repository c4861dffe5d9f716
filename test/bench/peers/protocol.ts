/** What the bench and an engine's process say to each other: one JSON object a line, an answer to each request. */

export type Clock = 'wall' | 'cpu';
export type EngineKind = 'maskserve' | 'llama.cpp' | 'onnxruntime' | 'torch';

/** Argument of an engine's process. */
export interface EngineSettings {
  readonly kind: EngineKind;
  /** A Hugging Face directory, a GGUF file, or the directory of an exported ONNX model; absent where only layers are measured. */
  readonly model?: string;
  readonly threads: number;
  /** maskserve: through a random mask, the same in every process. */
  readonly masked?: boolean;
  /** maskserve: activations stay fp32 between and in the products, for comparison. */
  readonly precise?: boolean;
  /** `cpu`: the time that the process's threads were running, for one thread on a machine that others use. */
  readonly clock: Clock;
  /** onnxruntime's layers: a folder for their files. */
  readonly scratch?: string;
  /** Sequences and positions of each to make room for. */
  readonly sequences: number;
  readonly positions: number;
  /** Where the model's configuration is: an exported ONNX model's empty caches have its shape. */
  readonly vocab: number;
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** `depth` tokens into each of `sequences`, then `steps` times one token of each. */
export interface PassRequest {
  readonly op: 'pass';
  readonly sequences: number;
  readonly depth: number;
  readonly steps: number;
}

/** The same, untimed: logits of the last sequence after the prompt and after each step. */
export interface LogitsRequest {
  readonly op: 'logits';
  readonly sequences: number;
  readonly depth: number;
  readonly steps: number;
}

/** y (tokens, rows) ← x (tokens, cols) · Wᵀ, one after the other through copies of W that no cache holds together. */
export interface LayerRequest {
  readonly op: 'layer';
  readonly rows: number;
  readonly cols: number;
  readonly tokens: number;
}

export type EngineRequest = PassRequest | LogitsRequest | LayerRequest;

export interface Ready {
  /** The engine, its version, and how it is set up. */
  readonly engine: string;
}

export interface PassAnswer {
  readonly prefillMs: number;
  readonly decodeMs: number;
}

export interface LogitsAnswer {
  /** (steps + 1) × V fp32, base64. */
  readonly logits: readonly string[];
}

export interface LayerAnswer {
  /** Of one product. */
  readonly ms: number;
}

/** Token `position` of sequence `sequence`: the same in every engine, different in every sequence. */
export function tokenAt(vocab: number, sequence: number, position: number): number {
  return (position * 7919 + sequence * 104729 + 13) % vocab;
}

/** Copies of a layer are made until they have this many bytes together. */
export const LAYER_BYTES = 256 << 20;
/** From so many tokens on one copy is enough: arithmetic takes longer than reading the weights. */
export const COMPUTE_BOUND_TOKENS = 64;
