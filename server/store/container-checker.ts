/** Checks containers for one model in a worker thread. */
import type { ModelInfo } from '../engine/types.js';
import { ServerError } from '../errors.js';
import type { BlobHeader, CheckDepth, CheckResult, MaskRules } from './check-container.js';
import type { CheckRequest } from './checker-worker.js';
import { WorkerCalls } from './worker-calls.js';

export class ContainerChecker {
  private readonly calls: WorkerCalls<CheckRequest, CheckResult>;

  constructor({ base, maskable }: Pick<ModelInfo, 'base' | 'maskable'>) {
    const rules: MaskRules = { base, matrices: maskable.map(({ name, rows, cols }) => ({ name, rows, cols })) };
    this.calls = new WorkerCalls('mask checker', new URL('./checker-worker.js', import.meta.url), rules);
  }

  /** Throws ServerError invalid_mask or wrong_base with the sentence to show, shutting_down if closed meanwhile. */
  async check(path: string, depth: CheckDepth = 'whole'): Promise<BlobHeader> {
    const result = await this.calls.call({ path, depth });
    if ('refused' in result) throw new ServerError(result.refused, result.message);
    return result.header;
  }

  close(): Promise<void> {
    return this.calls.close();
  }
}
