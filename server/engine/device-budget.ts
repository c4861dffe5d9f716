/** What a GPU's memory holds beside the weights: key-value caches, resident tasks, working memory. Decided when the server starts, never an OOM later. */
import type { DeviceMemory } from './types.js';

/** For activations, workspaces of the matrix libraries and one matrix at full size: the most that ops take beside buffers. */
export const WORKING_BYTES = 768 * 2 ** 20;

/** A GPU has not the room. `message`: what was expected, and what can be done where nobody knows better. */
export class DeviceFull extends Error {
  constructor(
    readonly expected: string,
    wayOut: string,
  ) {
    super(`${expected}; ${wayOut}`);
  }
}

/**
 * Bytes for resident tasks: `wanted`, or all that is left. Throws one line with the figures where it can't be had.
 * @param device its memory after the weights were loaded
 * @param kvBytes budget of the key-value caches
 */
export function taskBudget(device: DeviceMemory, kvBytes: number, wanted: number | undefined): number {
  const left = device.freeBytes - WORKING_BYTES - kvBytes;
  if (wanted === undefined ? left > 0 : wanted <= left) return wanted ?? left;
  const asked = wanted === undefined ? 'room for tasks' : `--cache-bytes of ${mebibytes(wanted)}`;
  throw new Error(
    `expected ${asked} and --kv-bytes of ${mebibytes(kvBytes)} to fit in the ${mebibytes(device.freeBytes)} that the weights leave of ` +
      `${device.name} (${mebibytes(WORKING_BYTES)} are working memory); lower one of them, or use --backend cpu`,
  );
}

export function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}
