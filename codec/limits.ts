/** Limits of the format as numbers: FORMAT.md §11. */
import { CodecError, type CodecErrorCode } from './errors.js';

/** [least, most] */
export type Range = readonly [least: number, most: number];

export const LIMITS = {
  tensorCount: [1, 16_384],
  tableBytes: [2, 8_388_608],
  modelBytes: [0, 262_144],
  indexBytes: [0, 9 * 2 ** 20],
  chunkCount: [0, 1_048_576],
  payloadBytes: [0, 2 ** 40],
  setGroups: [1, 2 ** 36],
  chunkLog2: [12, 20],
  patchLog2: [8, 24],
  nameBytes: [1, 255],
  rows: [1, 2 ** 24],
  cols: [1, 2 ** 24],
  groups: [1, 2 ** 30],
  chain: [1, 8],
} as const satisfies Record<string, Range>;

export type LimitName = keyof typeof LIMITS;

/** Throws CodecError `code` if the value is outside the limit. `what` names the field in the sentence. */
export function checkLimit(limit: LimitName, value: number, code: CodecErrorCode, what: string = limit): void {
  const [least, most] = LIMITS[limit];
  if (!(Number.isInteger(value) && value >= least && value <= most)) {
    throw new CodecError(code, `expected ${what} from ${least} to ${most}, got ${value}`);
  }
}
