/**
 * Writes test/fixtures/golden and test/fixtures/corrupt: `node dist/test/codec/make-fixtures.js`. Run by hand, never by a test.
 * A golden file that exists is never overwritten: what a released writer wrote stays as it is.
 */
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { encodeMaskSet } from '../../codec/encode.js';
import { corruptFiles } from './corrupt-files.js';
import { CORRUPT_FOLDER, GOLDEN, GOLDEN_FOLDER } from './fixture-files.js';

mkdirSync(GOLDEN_FOLDER, { recursive: true });
for (const { file, version, set, context, chunkLog2, coder } of GOLDEN) {
  const target = path.join(GOLDEN_FOLDER, file);
  mkdirSync(path.dirname(target), { recursive: true });
  if (existsSync(target)) console.log(`kept ${file}`);
  else if (version === 1) throw new Error(`expected ${file}, which no writer makes any more: restore it from git`);
  else writeFileSync(target, encodeMaskSet(set, { context, chunkLog2, ...(coder === undefined ? {} : { coder }) }));
}

rmSync(CORRUPT_FOLDER, { recursive: true, force: true });
for (const [code, defect, bytes] of corruptFiles()) {
  mkdirSync(path.join(CORRUPT_FOLDER, code), { recursive: true });
  writeFileSync(path.join(CORRUPT_FOLDER, code, `${defect}.mask`), bytes);
}
