/** The four small valid containers that corrupt ones are made of, and how they are changed. */
import type { CoderName } from '../../codec/coder.js';
import type { DecodeContext } from '../../codec/context.js';
import { encodeMaskSet } from '../../codec/encode.js';
import type { CodecErrorCode } from '../../codec/errors.js';
import { FIXED_HEADER, seal, sealChunks, takeApart, type ContainerParts } from './container-parts.js';
import { randomChild, randomSet, randomWeights } from './random-sets.js';

export type CorruptFile = readonly [code: CodecErrorCode, defect: string, bytes: Uint8Array];

/** 64 · 288 / 4 = 4608 groups in two chunks of uniform-ac, 16 · 24 / 4 = 96 in one. */
export const SHAPES = { 'q_proj.weight': [64, 288], 'k_proj.weight': [16, 24] } as const;

export const PARENT = randomSet(900, [2, 4], SHAPES);

export const SET = randomChild(901, PARENT, 200);

const WEIGHTS = randomWeights(902, SHAPES);

const encode = (coder: CoderName): Uint8Array =>
  encodeMaskSet(SET, { coder, chunkLog2: 12, patchLog2: 8, context: { parent: PARENT, weights: WEIGHTS } });

/** The container that most are made of: names and shapes of its own, and chunks whose lengths say how many symbols they have. */
export const VALID = encode('uniform-ac');

/** Inherits its tensors. */
export const PATCH = encode('patch');

export const DENSE = encode('parent+weights');

export const SCALED = encode('scaled-weights');

const VALID_ONES = { VALID, PATCH, DENSE, SCALED };

/** Where in the tensor table of VALID: coder and its run, then two entries. */
export const TABLE = {
  coder: 0,
  run: 1,
  prefix: 2,
  suffix: 3,
  middle: 4,
  name: 5,
  rows: 18,
  cols: 19,
  second: 21,
  secondRows: 25,
} as const;

/** What the reader has, for files that need something: all of it, but where the lack of it is the defect. */
export function contextFor(code: CodecErrorCode): DecodeContext {
  if (code === 'parent-missing') return { weights: WEIGHTS };
  if (code === 'weights-missing') return { parent: PARENT };
  if (code === 'weights-mismatch') return { parent: PARENT, weights: () => new Uint16Array(4) };
  return { parent: PARENT, weights: WEIGHTS };
}

export function validOnes(): readonly Uint8Array[] {
  return Object.values(VALID_ONES);
}

export function offsets(bytes: Uint8Array): { table: number; models: number; index: number; payload: number } {
  const { table, models: modelSection, index } = takeApart(bytes);
  const start = FIXED_HEADER + table.length;
  return {
    table: FIXED_HEADER,
    models: start,
    index: start + modelSection.length,
    payload: start + modelSection.length + index.length,
  };
}

export function changed(
  code: CodecErrorCode,
  defect: string,
  change: (parts: ContainerParts) => unknown,
  from: Uint8Array = VALID,
): CorruptFile {
  const parts = takeApart(from);
  change(parts);
  return [code, defect, seal(parts)];
}

export function resealed(
  code: CodecErrorCode,
  defect: string,
  change: (parts: ContainerParts) => unknown,
  from: Uint8Array = VALID,
): CorruptFile {
  return changed(
    code,
    defect,
    (parts) => {
      change(parts);
      sealChunks(parts);
    },
    from,
  );
}
