/** The model and the masks of publish-loop.ts: large enough that a kill often lands inside an upload. */
import type { ModelInfo } from '../../../server/engine/types.js';
import { sampleContainer, sampleModel, type Shape } from './sample-masks.js';

export const LOOP_TASKS = ['a', 'b', 'c'] as const;

const MATRICES: readonly Shape[] = [{ name: 'model.layers.0.mlp.up_proj.weight', rows: 512, cols: 256 }];

export function loopModel(): Pick<ModelInfo, 'name' | 'base' | 'maskable'> {
  return sampleModel(MATRICES);
}

export function loopContainer(seed: number): Uint8Array {
  return sampleContainer(seed, { matrices: MATRICES });
}
