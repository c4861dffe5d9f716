/** Where a model is to run: the choice of `--backend`, against what this machine has. */
import { native, type BackendName, type KvType } from '../../kernels/index.js';

export interface ChosenBackend {
  readonly name: BackendName;
  /** Why a CUDA backend that is there is not used; undefined: nothing to tell. */
  readonly remark?: string;
}

/**
 * `auto` takes the GPU where its backend works, and says why not only where somebody built one. `cuda` throws one line where it does not work.
 * Asks the native addon, which looks once a process.
 */
export function chooseBackend(choice: 'auto' | BackendName): ChosenBackend {
  if (choice === 'cpu') return { name: 'cpu' };
  const { usable, reason, report } = native.probeCuda();
  if (usable) return { name: 'cuda' };
  if (choice === 'cuda') throw new Error(`can't run with --backend cuda: ${reason}; "maskctl doctor" says more`);
  return { name: 'cpu', ...(report === '' ? {} : { remark: reason }) };
}

/** What key-value caches hold: `auto` is bf16, as the weights are, where the backend's kernels read it. Throws one line where `choice` can't be had. */
export function chooseKvType(choice: 'auto' | KvType, backend: BackendName): KvType {
  if (backend === 'cpu') return choice === 'auto' ? 'bf16' : choice;
  if (choice !== 'bf16') return 'f32';
  throw new Error('expected --kv-dtype f32 on a GPU but received bf16; leave it out, or use --backend cpu');
}
