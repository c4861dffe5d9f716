/** Checks containers for one model in a worker thread. */
import type { ModelInfo } from '../engine/types.js';
import { ServerError } from '../errors.js';
import type { BlobHeader, CheckDepth, CheckResult, MaskRules } from './check-container.js';
import type { CheckRequest } from './checker-worker.js';
import { WorkerCalls } from './worker-calls.js';

export interface ContainerChecker {
  /** Throws ServerError invalid_mask or wrong_base with the sentence to show, shutting_down if closed meanwhile. */
  check(path: string, depth: CheckDepth): Promise<BlobHeader>;
  close(): Promise<void>;
}

export function createContainerChecker(model: Pick<ModelInfo, 'base' | 'maskable'>): ContainerChecker {
  const script = new URL('./checker-worker.js', import.meta.url);
  const calls = new WorkerCalls<CheckRequest, CheckResult>('mask checker', script, rulesOf(model));
  return {
    check: async (path, depth) => headerOf(await calls.call({ path, depth })),
    close: () => calls.close(),
  };
}

export function rulesOf({ base, maskable }: Pick<ModelInfo, 'base' | 'maskable'>): MaskRules {
  return { base, matrices: maskable.map(({ name, rows, cols }) => ({ name, rows, cols })) };
}

/** Throws what the check found wrong. */
export function headerOf(result: CheckResult): BlobHeader {
  if ('refused' in result) throw new ServerError(result.refused, result.message);
  return result.header;
}
