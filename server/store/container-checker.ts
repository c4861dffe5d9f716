/** Checks and flattens containers for one model in a worker thread. */
import type { Digest } from '../../codec/mask-set.js';
import type { ModelInfo } from '../engine/types.js';
import { ServerError } from '../errors.js';
import type { BlobHeader, CheckDepth, CheckResult, MaskRules } from './check-container.js';
import type { CheckRequest } from './checker-worker.js';
import type { ContainerFile } from './open-containers.js';
import { WorkerCalls } from './worker-calls.js';

/** A container's header once it is checked, or the content digest of the parent that it takes to check it. */
export type Checked = BlobHeader | { readonly needsParent: Digest };

export interface ContainerChecker {
  /** Throws ServerError invalid_mask or wrong_base with the sentence to show, shutting_down if closed meanwhile. */
  check(path: string, depth: CheckDepth, ancestors?: readonly ContainerFile[]): Promise<Checked>;
  /** The same masks in a container that needs nothing. Throws what the codec throws, by its message. */
  flatten(path: string, ancestors: readonly ContainerFile[]): Promise<Uint8Array>;
  close(): Promise<void>;
}

export function createContainerChecker(model: Pick<ModelInfo, 'base' | 'maskable'>): ContainerChecker {
  const script = new URL('./checker-worker.js', import.meta.url);
  const calls = new WorkerCalls<CheckRequest, CheckResult | Uint8Array>('mask checker', script, rulesOf(model));
  return {
    check: async (path, depth, ancestors = []) =>
      checkedOf((await calls.call({ type: 'check', path, depth, ancestors })) as CheckResult),
    flatten: async (path, ancestors) => (await calls.call({ type: 'flatten', path, ancestors })) as Uint8Array,
    close: () => calls.close(),
  };
}

export function rulesOf({ base, maskable }: Pick<ModelInfo, 'base' | 'maskable'>): MaskRules {
  return { base, matrices: maskable };
}

/** Throws what the check found wrong. */
export function checkedOf(result: CheckResult): Checked {
  if ('refused' in result) throw new ServerError(result.refused, result.message);
  return 'header' in result ? result.header : result;
}
