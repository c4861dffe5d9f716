/** Finished cells on disk, named by what decides their numbers: a reproduction that was stopped goes on where it was. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import type { MaskSet } from '../../codec/mask-set.js';
import type { Cell, CellResult } from './cells.js';

/** Raise it when a change of the trainer changes results. */
const VERSION = 1;

/** What all cells of a reproduction have in common. */
export interface Conditions {
  readonly base: string;
  /** Digest of the text. */
  readonly data: string;
  readonly windows: number;
}

export class CellCache {
  constructor(
    private readonly directory: string,
    private readonly conditions: Conditions,
  ) {
    mkdirSync(directory, { recursive: true });
  }

  key(cell: Cell): string {
    const text = JSON.stringify({ version: VERSION, ...this.conditions, cell });
    return createHash('sha256').update(text).digest('hex').slice(0, 24);
  }

  result(cell: Cell): CellResult | undefined {
    const path = this.path(cell, 'json');
    if (!existsSync(path)) return undefined;
    return (JSON.parse(readFileSync(path, 'utf8')) as { result: CellResult }).result;
  }

  mask(cell: Cell): MaskSet | undefined {
    const path = this.path(cell, 'mask');
    return existsSync(path) ? decodeMaskSet(readFileSync(path)) : undefined;
  }

  /** The result is written last: where it is, the mask is. */
  store(cell: Cell, result: CellResult, mask: MaskSet | undefined): void {
    if (mask) this.write(cell, 'mask', encodeMaskSet(mask));
    this.write(cell, 'json', `${JSON.stringify({ cell, result }, null, 2)}\n`);
  }

  private write(cell: Cell, kind: string, content: string | Uint8Array): void {
    const path = this.path(cell, kind);
    writeFileSync(`${path}.part`, content);
    renameSync(`${path}.part`, path);
  }

  private path(cell: Cell, kind: string): string {
    return join(this.directory, `${this.key(cell)}.${kind}`);
  }
}
