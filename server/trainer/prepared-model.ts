/** The directory of a prepared base: its weights, its general mask, and maskserve.json, which says what it was made from (design §10). */
import { mkdirSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { contentDigest } from '../../codec/content-digest.js';
import { encodeMaskSet } from '../../codec/encode.js';
import type { Digest } from '../../codec/mask-set.js';
import { native } from '../../kernels/index.js';
import { computeBaseDigest } from '../engine/base-digest.js';
import type { Model } from '../engine/model.js';
import { locateTensors } from '../engine/safetensors.js';
import { syncDirectory } from '../engine/safetensors-writer.js';
import { weightsInFiles } from '../engine/weight-files.js';
import { matricesOf } from '../engine/weights.js';
import { maskSetOf, type NibblesByName } from './nibbles.js';
import type { Parameter } from './optimizer.js';
import { saveFile, saveModel, type ReadWeights } from './save-model.js';

/** The task that a prepared base is made for, and serves by default. */
export const GENERAL_TASK = 'general';

export interface PreparedFiles {
  /** Where it lies until it is published: next to its place. */
  readonly directory: string;
  readonly base: Digest;
  /** Content digest of its general mask. */
  readonly general: Digest;
  /** Moves it into its place. */
  publish(): void;
  discard(): void;
}

/** Writes everything next to `out`. `weights`: f32 master copies of the masked matrices. `recipe`: how they came about, JSON. */
export function writePreparedModel(
  out: string,
  masked: Model,
  weights: readonly Parameter[],
  mask: NibblesByName,
  recipe: object,
): PreparedFiles {
  const directory = join(dirname(out), `.${basename(out)}.${process.pid}.part`);
  const discard = (): void => rmSync(directory, { recursive: true, force: true });
  discard();
  mkdirSync(directory);
  try {
    const scratch = native.alloc(2 * Math.max(...weights.map(({ count }) => count)));
    try {
      saveModel(directory, masked.info.directory, readers(masked, weights, scratch));
    } finally {
      native.free(scratch);
    }
    const base = computeBaseDigest(locateTensors(directory));
    const set = maskSetOf(masked, mask, base);
    const general = contentDigest(set);
    const container = encodeMaskSet(set, { context: { weights: weightsInFiles(directory) } });
    saveFile(join(directory, 'masks'), `${GENERAL_TASK}.mask`, container);
    const { name, base: originalBase } = masked.info;
    const about = { preparedFrom: { name, base: originalBase }, defaultTask: GENERAL_TASK, general, recipe };
    saveFile(directory, 'maskserve.json', `${JSON.stringify(about, null, 2)}\n`);
    const publish = (): void => {
      renameSync(directory, out); // an empty directory may be there
      syncDirectory(dirname(out));
    };
    return { directory, base, general, publish, discard };
  } catch (error) {
    discard();
    throw error;
  }
}

/** Rounds a matrix to bf16 in `scratch` when its first byte is asked for: the writer reads each from its beginning to its end. */
function readers(
  masked: Model,
  weights: readonly Parameter[],
  scratch: ReturnType<typeof native.alloc>,
): Map<string, ReadWeights> {
  const byName = new Map(weights.map((parameter) => [parameter.name, parameter]));
  return new Map(
    matricesOf(masked.weights).map(({ name }) => {
      const { values, count } = byName.get(name) as Parameter;
      const read: ReadWeights = (offset, into) => {
        if (offset === 0) native.toBf16(scratch, values, 'f32', count);
        native.read(scratch, offset, into);
      };
      return [name, read];
    }),
  );
}
