/** Names of tasks: what a client puts in `X-Task`, what follows `:` in `model`, and the stem of the alias file. */
import { ServerError } from '../errors.js';

/** The unmasked base: never an alias. */
export const DENSE_TASK = 'dense';

/**
 * Lower case only, so that names stay distinct on file systems that fold case; no `/`, `:` or `@`, which separate a name from a path,
 * a model and a version; starts with a letter or digit, so that it can't be `.`, `..` or a hidden file.
 */
const TASK_NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/;

export function isTaskName(task: string): boolean {
  return TASK_NAME.test(task);
}

/** Throws ServerError invalid_task_name. */
export function checkTaskName(task: string): void {
  if (isTaskName(task)) return;
  const shown = task.length > 80 ? `${task.slice(0, 80)}…` : task;
  throw new ServerError(
    'invalid_task_name',
    `expected a task name of 1 to 64 characters out of a-z, 0-9, ".", "_" and "-", starting with a letter or digit, but received ${JSON.stringify(shown)}`,
    { param: 'task' },
  );
}

/** Throws ServerError invalid_task_name or reserved_task: for whatever changes the name. */
export function checkOwnTaskName(task: string): void {
  checkTaskName(task);
  if (task !== DENSE_TASK) return;
  throw new ServerError(
    'reserved_task',
    `"${DENSE_TASK}" is reserved for the unmasked base; choose another task name`,
    {
      param: 'task',
    },
  );
}
