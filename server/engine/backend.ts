/** Where a model is to run: the choice of `--backend`, against what this machine has. */
import { native, type BackendName } from '../../kernels/index.js';

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

/** Ops and memory of this thread are the host's while `body` runs. */
export function onTheHost<T>(body: () => T): T {
  const { backend } = native.info();
  native.useBackend('cpu');
  try {
    return body();
  } finally {
    native.useBackend(backend);
  }
}
