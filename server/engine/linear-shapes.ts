/** The linear matrices of a LLaMA layer: Hugging Face's names and shapes, in file order. They are what masks may cover. */
import type { ModelConfig } from './model-config.js';

export type LinearRole = 'q' | 'k' | 'v' | 'o' | 'gate' | 'up' | 'down';

export interface LinearShape {
  /** Below `model.layers.N` for a role, whole for a matrix of the model. */
  readonly name: string;
  /** Outputs. */
  readonly rows: number;
  /** Inputs. */
  readonly cols: number;
}

type Dimensions = Pick<ModelConfig, 'hidden' | 'ffn' | 'heads' | 'kvHeads' | 'headDim'>;

/** Of one layer, by role. */
export function layerShapes({
  hidden,
  ffn,
  heads,
  kvHeads,
  headDim,
}: Dimensions): Readonly<Record<LinearRole, LinearShape>> {
  const [q, kv] = [heads * headDim, kvHeads * headDim];
  return {
    q: { name: 'self_attn.q_proj', rows: q, cols: hidden },
    k: { name: 'self_attn.k_proj', rows: kv, cols: hidden },
    v: { name: 'self_attn.v_proj', rows: kv, cols: hidden },
    o: { name: 'self_attn.o_proj', rows: hidden, cols: q },
    gate: { name: 'mlp.gate_proj', rows: ffn, cols: hidden },
    up: { name: 'mlp.up_proj', rows: ffn, cols: hidden },
    down: { name: 'mlp.down_proj', rows: hidden, cols: ffn },
  };
}

/** What a layer has for each role, those of one input together. */
export function byInput<T>({ q, k, v, o, gate, up, down }: Readonly<Record<LinearRole, T>>): T[][] {
  return [[q, k, v], [o], [gate, up], [down]];
}

/** Of all layers, by parameter name. */
export function linearShapes(config: Dimensions & Pick<ModelConfig, 'layers'>): LinearShape[] {
  const shapes = Object.values(layerShapes(config));
  return Array.from({ length: config.layers }, (_, layer) =>
    shapes.map(({ name, rows, cols }) => ({ name: `model.layers.${layer}.${name}.weight`, rows, cols })),
  ).flat();
}
