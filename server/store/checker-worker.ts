/** Worker thread: checks containers, one after the other. A thread of its own, so that a long check delays no load and no request. */
import { workerData } from 'node:worker_threads';
import { checkContainerFile, type CheckDepth, type CheckResult, type MaskRules } from './check-container.js';
import { answerCalls } from './worker-answers.js';

export interface CheckRequest {
  readonly path: string;
  readonly depth: CheckDepth;
}

const rules = workerData as MaskRules;

answerCalls<CheckRequest, CheckResult>(({ path, depth }) => checkContainerFile(path, rules, depth));
