/** A mask set to look at: a file of this machine, or else a task of the server. */
import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import { ContainerReader, type ContainerSummary } from '../../../codec/decode.js';
import { CodecError } from '../../../codec/errors.js';
import type { Digest } from '../../../codec/mask-set.js';
import { type MaskServe, MaskServeError } from '../../sdk/index.js';
import { connect, explain } from '../connection.js';
import type { GlobalOptions } from '../global-options.js';
import type { FamilyOptions } from '../mask-family.js';
import { openMask as openFile, type OpenOptions } from '../mask-file.js';
import type { Progress } from '../progress.js';
import { wholeDigest } from '../versions.js';

export interface MaskSource {
  /** As it was named on the command line. */
  readonly name: string;
  /** null: it came from the server. */
  readonly file: string | null;
  readonly task: string | null;
  /** sha256 of the container. */
  readonly digest: Digest;
  readonly summary: ContainerSummary;
  /** Symbols of tensor `index` of the summary (rows · cols/m), row by row. Throws one line that names the mask and its defect. */
  symbols(index: number): Uint8Array;
  close(): void;
}

/** Opens a file with what it needs; its tables are checked now, its chunks when they are read. Throws as `openMask` of mask-file.ts. */
export function openMaskFile(path: string, options: OpenOptions = {}): MaskSource {
  const { digest, summary, read, close } = openFile(path, options);
  const symbols = (index: number): Uint8Array => read((reader) => reader.symbols(index));
  return { name: path, file: path, task: null, digest, summary, symbols, close };
}

/** Opens the file `name`, or where there is none, downloads the task of that name: `french`, or a version, `french@3f9a52c01b7e`. */
export async function openMask(
  name: string,
  options: GlobalOptions & FamilyOptions,
  progress: Progress,
): Promise<MaskSource> {
  if (/[/\\]|\.mask$/.test(name) || statSync(name, { throwIfNoEntry: false })?.isFile()) {
    return openMaskFile(name, options);
  }
  try {
    return await downloadMask(name, connect(options), progress);
  } catch (error) {
    if (!(error instanceof MaskServeError)) throw error;
    throw new Error(`there is no file ${name} here; looked for a task: ${explain(error)}`, { cause: error });
  }
}

/** Flattened, whatever the server keeps: it has what the mask needs. `digest` is the version's. */
async function downloadMask(name: string, client: MaskServe, progress: Progress): Promise<MaskSource> {
  const [task, version] = name.split('@') as [string, string?];
  const asked = version === undefined ? undefined : await wholeDigest(client, task, version, `the version of ${task}`);
  const download = await client.masks.download(asked === undefined ? task : `${task}@sha256:${asked}`, {
    flatten: true,
  });
  const chunks: Uint8Array[] = [];
  let received = 0;
  for await (const chunk of download.stream) {
    chunks.push(chunk);
    progress.update((received += chunk.length), download.bytes, `downloading ${task}`);
  }
  const bytes = Buffer.concat(chunks);
  const digest = createHash('sha256').update(bytes).digest('hex');
  if (digest !== download.digest) {
    throw new Error(`expected ${task} with the digest ${download.digest} but received ${digest}: try again`);
  }
  const reader = named(name, () => new ContainerReader(bytes));
  const symbols = (index: number): Uint8Array => named(name, () => reader.symbols(index));
  const { summary } = reader;
  return { name, file: null, task, digest: download.version, summary, symbols, close: () => undefined };
}

/** Says which mask a defect is in. */
function named<T>(name: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof CodecError) throw new Error(`${name}: ${error.message}`, { cause: error });
    throw error;
  }
}
