/**
 * Every way a file of version 2 can be wrong, made on purpose: [error code, defect, bytes]. `make-fixtures` writes them to
 * test/fixtures/corrupt/CODE/DEFECT.mask. They come from four small valid containers. Those of version 1, in
 * test/fixtures/corrupt-version-1, were made by the writer of their time.
 */
import { cutOrExtended, flippedBits, headerFields, otherFiles } from './corrupt-headers.js';
import type { CorruptFile } from './corrupt-origins.js';
import { payloads } from './corrupt-payloads.js';
import { chunkIndex, kinship, models, tensorTable } from './corrupt-tables.js';

export function corruptFiles(): CorruptFile[] {
  return [
    ...otherFiles(),
    ...flippedBits(),
    ...headerFields(),
    ...cutOrExtended(),
    ...tensorTable(),
    ...models(),
    ...kinship(),
    ...chunkIndex(),
    ...payloads(),
  ];
}
