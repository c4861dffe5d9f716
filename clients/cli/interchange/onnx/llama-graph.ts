/**
 * The LLaMA forward pass (server/engine/llama.ts) as an ONNX graph of standard operators. Hidden states are (B·T, D), so that every linear layer is one Gemm
 * over the weights as they lie in the files. Shapes: B batch, T tokens, P past positions, S = P + T, G = H / KV.
 */
import { inverseFrequencies } from '../../../../server/engine/rope.js';
import type { ModelConfig } from '../../../../server/engine/model-config.js';
import { GraphBuilder } from './graph-builder.js';
import type { OnnxGraph, OnnxValue } from './model-proto.js';

export interface GraphOptions {
  /** Take and return keys and values, so that decoding needs only the new tokens. */
  readonly cache: boolean;
  /** Logits of every position, or of the last alone. */
  readonly logits: 'all' | 'last';
}

/** Softmax of what may not be seen: fp32's lowest number, so that nothing becomes NaN. */
const HIDDEN = -3.4028234663852886e38;

/**
 * Inputs: `input_ids` (B, T), and with a cache `past_key_values.N.key`, `.value` (B, KV, P, hd), P from 0. Outputs: `logits` (B, T or 1, V),
 * and with a cache `present.N.key`, `.value` (B, KV, S, hd). Sequences of a batch have the same length. The weights are named as in Hugging Face's
 * files and are not among the constants.
 */
export function llamaGraph(config: ModelConfig, options: GraphOptions): OnnxGraph {
  return new LlamaGraph(config, options).build();
}

class LlamaGraph {
  private readonly graph = new GraphBuilder();
  private readonly masks = new Map<number, string>();
  // What all layers share; set by `prepare`.
  private tokens = '';
  private total = '';
  private positions = '';
  private keyPositions = '';
  private cos = '';
  private sin = '';
  private headsShape = '';
  private kvShape = '';

  constructor(
    private readonly config: ModelConfig,
    private readonly options: GraphOptions,
  ) {}

  build(): OnnxGraph {
    const { graph, config } = this;
    this.prepare();
    const embedded = graph.node('Gather', ['model.embed_tokens.weight', 'input_ids']);
    let x = graph.node('Reshape', [embedded, graph.integers([-1, config.hidden])]);
    for (let layer = 0; layer < config.layers; layer++) {
      const prefix = `model.layers.${layer}`;
      x = graph.node('Add', [x, this.attention(this.norm(x, `${prefix}.input_layernorm.weight`), prefix, layer)]);
      x = graph.node('Add', [x, this.feed(this.norm(x, `${prefix}.post_attention_layernorm.weight`), prefix)]);
    }
    this.head(x);
    return { name: config.architecture, ...this.interface(), nodes: graph.nodes, constants: graph.constants };
  }

  /** Sizes and positions of this call, rotary angles, target shapes. */
  private prepare(): void {
    const { graph, config } = this;
    const { heads, kvHeads, headDim } = config;
    const shape = graph.node('Shape', ['input_ids']);
    const batch = graph.node('Gather', [shape, graph.integers([0])]);
    this.tokens = graph.node('Gather', [shape, graph.integers(1)]);
    const past = this.options.cache
      ? graph.node('Gather', [graph.node('Shape', ['past_key_values.0.key']), graph.integers(2)])
      : graph.integers(0);
    this.total = graph.node('Add', [past, this.tokens]);
    this.keyPositions = graph.node('Range', [graph.integers(0), this.total, graph.integers(1)]);
    const own = graph.node('Range', [past, this.total, graph.integers(1)]);
    this.positions = graph.node('Unsqueeze', [own, graph.integers([1])]); // (T, 1)
    const frequencies = graph.constant('float', [1, headDim / 2], [...inverseFrequencies(config.rope, headDim)]);
    const angles = graph.node('Mul', [graph.node('Cast', [this.positions], { to: { int: 1 } }), frequencies]);
    this.cos = graph.node('Unsqueeze', [graph.node('Cos', [angles]), graph.integers([1])]); // (T, 1, hd/2)
    this.sin = graph.node('Unsqueeze', [graph.node('Sin', [angles]), graph.integers([1])]);
    const tokens = graph.node('Unsqueeze', [this.tokens, graph.integers([0])]);
    const perHead = (count: number): string =>
      graph.node('Concat', [batch, tokens, graph.integers([count, headDim])], { axis: { int: 0 } });
    this.headsShape = perHead(heads);
    this.kvShape = heads === kvHeads ? this.headsShape : perHead(kvHeads);
  }

  private attention(x: string, prefix: string, layer: number): string {
    const { graph, config } = this;
    const { heads, kvHeads, headDim, bias, qkNorm } = config;
    const part = (name: string): string => `${prefix}.self_attn.${name}`;
    const split = (name: string, shape: string): string =>
      graph.node('Reshape', [this.linear(x, part(name), bias.qkv), shape]); // (B, T, heads, hd)
    const normed = (value: string, name: string): string => (qkNorm ? this.norm(value, part(`${name}.weight`)) : value);
    const q = this.byHead(this.rotate(normed(split('q_proj', this.headsShape), 'q_norm')));
    const k = this.withPast(this.byHead(this.rotate(normed(split('k_proj', this.kvShape), 'k_norm'))), layer, 'key');
    const v = this.withPast(this.byHead(split('v_proj', this.kvShape)), layer, 'value');
    const scaled = graph.node('Mul', [q, graph.float(1 / Math.sqrt(headDim))]);
    const grouped = graph.node('Reshape', [scaled, graph.integers([0, kvHeads, -1, headDim])]); // (B, KV, G·T, hd)
    const scores = graph.node('MatMul', [grouped, this.permuted(k, [0, 1, 3, 2])]); // (B, KV, G·T, S)
    const visible = graph.node('Add', [scores, this.mask(config.windows[layer] ?? 0)]);
    const mixed = graph.node('MatMul', [graph.node('Softmax', [visible], { axis: { int: -1 } }), v]); // (B, KV, G·T, hd)
    const perHead = graph.node('Reshape', [mixed, graph.integers([0, heads, -1, headDim])]);
    const joined = graph.node('Reshape', [this.permuted(perHead, [0, 2, 1, 3]), graph.integers([-1, heads * headDim])]);
    return this.linear(joined, part('o_proj'), bias.o);
  }

  private feed(x: string, prefix: string): string {
    const { graph } = this;
    const { mlp } = this.config.bias;
    const gate = this.linear(x, `${prefix}.mlp.gate_proj`, mlp);
    const up = this.linear(x, `${prefix}.mlp.up_proj`, mlp);
    const silu = graph.node('Mul', [gate, graph.node('Sigmoid', [gate])]);
    return this.linear(graph.node('Mul', [silu, up]), `${prefix}.mlp.down_proj`, mlp);
  }

  /** Final norm and output layer of the positions that are asked for. */
  private head(x: string): void {
    const { graph, config } = this;
    const { vocab, tiedHead } = config;
    const last = this.options.logits === 'last';
    const wanted = this.norm(last ? this.lastOf(x) : x, 'model.norm.weight');
    const logits = this.gemm(wanted, tiedHead ? 'model.embed_tokens.weight' : 'lm_head.weight');
    const positions = last ? graph.integers([1]) : graph.node('Unsqueeze', [this.tokens, graph.integers([0])]);
    const shape = graph.node('Concat', [graph.integers([-1]), positions, graph.integers([vocab])], {
      axis: { int: 0 },
    });
    graph.node('Reshape', [logits, shape], {}, 'logits');
  }

  /** (B·T, D) → (B, D) */
  private lastOf(x: string): string {
    const { graph } = this;
    const sizes = [graph.node('Shape', ['input_ids']), graph.integers([this.config.hidden])];
    const sequences = graph.node('Reshape', [x, graph.node('Concat', sizes, { axis: { int: 0 } })]);
    return graph.node('Gather', [sequences, graph.integers(-1)], { axis: { int: 1 } });
  }

  /** RMSNorm over the last axis, in the form that runtimes recognise. */
  private norm(x: string, weight: string): string {
    const { graph } = this;
    const squares = graph.node('Pow', [x, graph.float(2)]);
    const mean = graph.node('ReduceMean', [squares], { axes: { ints: [-1] }, keepdims: { int: 1 } });
    const root = graph.node('Sqrt', [graph.node('Add', [mean, graph.float(this.config.normEps)])]);
    return graph.node('Mul', [graph.node('Div', [x, root]), weight]);
  }

  /** x · Wᵀ + bias */
  private linear(x: string, name: string, hasBias: boolean): string {
    return this.gemm(x, `${name}.weight`, ...(hasBias ? [`${name}.bias`] : []));
  }

  private gemm(x: string, weight: string, ...bias: string[]): string {
    return this.graph.node('Gemm', [x, weight, ...bias], { transB: { int: 1 } });
  }

  /** RoPE over halves: (B, T, heads, hd). */
  private rotate(x: string): string {
    const { graph, cos, sin } = this;
    const [low, high] = graph.halves(x);
    const product = (half: string, by: string): string => graph.node('Mul', [half, by]);
    const turnedLow = graph.node('Sub', [product(low, cos), product(high, sin)]);
    const turnedHigh = graph.node('Add', [product(high, cos), product(low, sin)]);
    return graph.node('Concat', [turnedLow, turnedHigh], { axis: { int: -1 } });
  }

  /** (B, T, heads, hd) → (B, heads, T, hd) */
  private byHead(x: string): string {
    return this.permuted(x, [0, 2, 1, 3]);
  }

  private permuted(x: string, perm: readonly number[]): string {
    return this.graph.node('Transpose', [x], { perm: { ints: perm } });
  }

  /** Past and new keys or values: (B, KV, S, hd). */
  private withPast(x: string, layer: number, what: 'key' | 'value'): string {
    if (!this.options.cache) return x;
    const past = `past_key_values.${layer}.${what}`;
    return this.graph.node('Concat', [past, x], { axis: { int: 2 } }, `present.${layer}.${what}`);
  }

  /** 0 where a query sees a key, else HIDDEN: (G·T, S), the rows of the T tokens repeated for each query head of a group. `window` 0: all that precede. */
  private mask(window: number): string {
    const known = this.masks.get(window);
    if (known !== undefined) return known;
    const { graph, config, positions, keyPositions } = this;
    const causal = graph.node('LessOrEqual', [keyPositions, positions]);
    const oldest = (): string => graph.node('Sub', [positions, graph.integers(window)]);
    const seen = window === 0 ? causal : graph.node('And', [causal, graph.node('Greater', [keyPositions, oldest()])]);
    const mask = graph.node('Where', [seen, graph.float(0), graph.float(HIDDEN)]);
    const group = config.heads / config.kvHeads;
    const repeated = group === 1 ? mask : graph.node('Tile', [mask, graph.integers([group, 1])]);
    this.masks.set(window, repeated);
    return repeated;
  }

  private interface(): { inputs: OnnxValue[]; outputs: OnnxValue[] } {
    const { layers, kvHeads, headDim, vocab } = this.config;
    const cached = (prefix: string, length: string): OnnxValue[] =>
      Array.from({ length: this.options.cache ? layers : 0 }, (_, layer) =>
        (['key', 'value'] as const).map((what): OnnxValue => {
          return { name: `${prefix}.${layer}.${what}`, type: 'float', shape: ['batch', kvHeads, length, headDim] };
        }),
      ).flat();
    const positions = this.options.logits === 'last' ? 1 : 'tokens';
    return {
      inputs: [{ name: 'input_ids', type: 'int64', shape: ['batch', 'tokens'] }, ...cached('past_key_values', 'past')],
      outputs: [{ name: 'logits', type: 'float', shape: ['batch', positions, vocab] }, ...cached('present', 'total')],
    };
  }
}
