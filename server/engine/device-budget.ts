/** What a GPU's memory holds beside the weights: key-value caches, resident tasks, working memory. Decided when the server starts, never an OOM later. */
import type { DeviceMemory } from './types.js';

/** For activations, workspaces of the matrix libraries and one matrix at full size: the most that ops take beside buffers. */
export const WORKING_BYTES = 768 * 2 ** 20;

/** Of what may be either's, tasks take where training jobs run on the GPU too. */
const TASK_SHARE = 1 / 2;

/** A GPU has not the room. `message`: what was expected, and what can be done where nobody knows better. */
export class DeviceFull extends Error {
  constructor(
    readonly expected: string,
    wayOut: string,
  ) {
    super(`${expected}; ${wayOut}`);
  }
}

/** What a GPU holds beside weights, key-value caches and working memory. */
export interface DeviceShares {
  /** For resident tasks. */
  readonly taskBytes: number;
  /** For a training job and its copy of the weights: serving never takes it. */
  readonly trainBytes: number;
}

/**
 * Resident tasks get `wanted`, or all that is left, or half of it where jobs train on the GPU as well; a job gets the rest. Throws one line with the figures where it can't be had.
 * @param device its memory after the weights were loaded
 * @param kvBytes budget of the key-value caches
 */
export function deviceShares(
  device: DeviceMemory,
  kvBytes: number,
  { wanted, trains }: { readonly wanted: number | undefined; readonly trains: boolean },
): DeviceShares {
  const left = device.freeBytes - WORKING_BYTES - kvBytes;
  const taskBytes = wanted ?? Math.floor(left * (trains ? TASK_SHARE : 1));
  if (taskBytes > 0 && taskBytes <= left) return { taskBytes, trainBytes: trains ? left - taskBytes : 0 };
  const asked = wanted === undefined ? 'room for tasks' : `--cache-bytes of ${mebibytes(wanted)}`;
  throw new Error(
    `expected ${asked} and --kv-bytes of ${mebibytes(kvBytes)} to fit in the ${mebibytes(device.freeBytes)} that the weights leave of ` +
      `${device.name} (${mebibytes(WORKING_BYTES)} are working memory); lower one of them, or use --backend cpu`,
  );
}

export function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}
