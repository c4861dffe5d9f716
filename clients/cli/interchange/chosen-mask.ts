/** The mask that an export is of, checked against its base and read a matrix at a time. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { ContainerSummary } from '../../../codec/decode.js';
import type { Digest } from '../../../codec/mask-set.js';
import { openMaskFile } from '../pictures/mask-source.js';
import type { BaseModel } from './base-model.js';

export interface ChosenMask {
  readonly path: string;
  /** sha256 of the container. */
  readonly digest: Digest;
  readonly summary: ContainerSummary;
  covers(name: string): boolean;
  /** Symbols of the matrix `name` (rows · cols/4); the last one asked for is remembered. */
  symbols(name: string): Uint8Array;
  close(): void;
}

/** The path `name` if there is a file, else the mask that ships with the model under it. Throws one line. */
export function maskPath(directory: string, name: string): string {
  if (statSync(name, { throwIfNoEntry: false })?.isFile()) return name;
  const folder = join(directory, 'masks');
  const shipped = existsSync(folder) ? readdirSync(folder).filter((file) => file.endsWith('.mask')) : [];
  if (shipped.includes(`${name}.mask`)) return join(folder, `${name}.mask`);
  const known =
    shipped.length === 0
      ? 'none does'
      : shipped
          .map((file) => file.slice(0, -'.mask'.length))
          .sort()
          .join(', ');
  throw new Error(
    `expected a mask file, or a task that comes with ${directory} (${known}), but received ${name}; "maskctl pull ${name}" fetches a server's`,
  );
}

/** Opens a container of 2:4 masks for `base`; `parent`: a file of its parent. Throws one line if it is damaged, or for other weights or another n:m. */
export function openChosenMask(path: string, base: BaseModel, parent?: string): ChosenMask {
  const near = { model: base.directory, ...(parent === undefined ? {} : { parent }) };
  const source = openMaskFile(path, near);
  try {
    const { summary, digest } = source;
    checkFits(path, summary, base);
    const indices = new Map(summary.tensors.map(({ name }, index) => [name, index]));
    let last: { readonly name: string; readonly symbols: Uint8Array } | undefined;
    const symbols = (name: string): Uint8Array => {
      if (last?.name !== name) last = { name, symbols: source.symbols(indices.get(name) as number) };
      return last.symbols;
    };
    return { path, digest, summary, covers: (name) => indices.has(name), symbols, close: () => source.close() };
  } catch (error) {
    source.close();
    throw error;
  }
}

function checkFits(path: string, { n, m, base: forBase, tensors }: ContainerSummary, base: BaseModel): void {
  if (n !== 2 || m !== 4) throw new Error(`${path}: expected 2:4 masks, but they are ${n}:${m}`);
  const digest = base.digest();
  if (forBase !== digest) {
    throw new Error(
      `${path}: expected a mask set for the base weights ${digest}, got one for ${forBase}: name the model that it belongs to by --model`,
    );
  }
  const shapes = new Map(base.matrices.map(({ name, rows, cols }) => [name, `${rows}x${cols}`]));
  for (const { name, rows, cols } of tensors) {
    const expected = shapes.get(name) ?? 'none';
    if (expected !== `${rows}x${cols}`) {
      throw new Error(
        `${path}: expected only masks for the linear layers of ${base.directory}, but ${name} is ${rows}x${cols} there and ${expected} in the model`,
      );
    }
  }
}
