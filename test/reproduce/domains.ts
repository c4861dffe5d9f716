/** The text of a reproduction: DIR/NAME.train.jsonl and DIR/NAME.valid.jsonl for each domain. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { readSource } from '../../server/trainer/corpus.js';
import type { TrainSource } from '../../server/trainer/types.js';

const TRAIN = '.train.jsonl';

export interface Domains {
  readonly names: readonly string[];
  readonly train: ReadonlyMap<string, TrainSource>;
  readonly valid: readonly TrainSource[];
  /** sha256 of all documents. */
  readonly digest: string;
}

/** Reads every domain of a directory, by name. Throws one line when there is none. */
export function readDomains(directory: string): Domains {
  const files = existsSync(directory) ? readdirSync(directory) : [];
  const names = files
    .filter((file) => file.endsWith(TRAIN))
    .map((file) => file.slice(0, -TRAIN.length))
    .filter((name) => files.includes(`${name}.valid.jsonl`))
    .sort();
  if (names.length === 0) {
    throw new Error(
      `expected DOMAIN.train.jsonl and DOMAIN.valid.jsonl in ${directory}, but found no pair; give --data`,
    );
  }
  const hash = createHash('sha256');
  const read = (name: string, split: string): TrainSource => {
    const { documents } = readSource(join(directory, `${name}.${split}.jsonl`));
    hash.update(`${name}.${split}\n`);
    for (const document of documents) hash.update(`${Buffer.byteLength(document)}\n`).update(document);
    return { name, documents };
  };
  const train = new Map(names.map((name) => [name, read(name, 'train')]));
  const valid = names.map((name) => read(name, 'valid'));
  return { names, train, valid, digest: hash.digest('hex') };
}

/** The domains that masks are learned for: those of `chosen` (names with commas between), or the first `count`. Throws one line when one is not among `names`. */
export function taskDomains(names: readonly string[], count: number, chosen?: string): readonly string[] {
  const wanted = chosen?.split(',') ?? names.slice(0, count);
  const unknown = wanted.find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw new Error(`expected --domains to name some of ${names.join(', ')} but received ${unknown}`);
  }
  return wanted;
}
