/** Worker thread: checks containers, and flattens them, one after the other. A thread of its own, so that a long check delays no load and no request. */
import { workerData } from 'node:worker_threads';
import {
  checkContainerFile,
  flattenContainerFile,
  type CheckDepth,
  type CheckResult,
  type MaskRules,
} from './check-container.js';
import type { ContainerFile } from './open-containers.js';
import { answerCalls } from './worker-answers.js';

interface Subject {
  readonly path: string;
  readonly ancestors: readonly ContainerFile[];
}

export type CheckRequest =
  ({ readonly type: 'check'; readonly depth: CheckDepth } & Subject) | ({ readonly type: 'flatten' } & Subject);

const rules = workerData as MaskRules;

answerCalls<CheckRequest, CheckResult | Uint8Array>((request) => {
  const { path, ancestors } = request;
  if (request.type === 'flatten') return flattenContainerFile(path, rules, ancestors);
  return checkContainerFile(path, rules, request.depth, ancestors);
});
