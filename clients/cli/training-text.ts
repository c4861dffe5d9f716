/** --data arguments → what a run trains on. */
import { readSource } from '../../server/trainer/corpus.js';
import type { TrainSource } from '../../server/trainer/types.js';

/** Reads every pattern; says on stderr how many files were left out. */
export function readSources(patterns: readonly string[]): TrainSource[] {
  return patterns.map((pattern) => {
    const { documents, files, skipped } = readSource(pattern);
    if (skipped > 0)
      process.stderr.write(`left out ${skipped} of ${files} files in ${pattern}: binary, or not UTF-8\n`);
    return { name: pattern, documents };
  });
}
