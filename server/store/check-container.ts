/** Whether a container can be served on a model: the codec's rules, then the model's. Synchronous, for worker threads. */
import type { ByteSource } from '../../codec/byte-source.js';
import { readContainer } from '../../codec/container.js';
import { crc32c } from '../../codec/crc32c.js';
import { ContainerReader, type ContainerSummary } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { CodecError } from '../../codec/errors.js';
import type { Digest } from '../../codec/mask-set.js';
import type { ModelInfo } from '../engine/types.js';
import type { ErrorCode } from '../errors.js';
import { OpenContainers, type ContainerFile, type WeightsHolder } from './open-containers.js';
import type { BlobInfo } from './types.js';

/** What kernels run. */
const SERVED_N = 2;
const SERVED_M = 4;
/** compress24 reads metadata a byte at a time: two groups of four. */
const COLS_MULTIPLE = 8;

/** What a model asks of its masks. */
export interface MaskRules extends WeightsHolder {
  readonly base: ModelInfo['base'];
}

/** `whole`: every symbol is decoded and the content digest compared. `checksums`: bytes only, for files that were checked once. */
export type CheckDepth = 'whole' | 'checksums';

export type BlobHeader = Omit<BlobInfo, 'digest' | 'bytes'>;

export type CheckResult =
  | { readonly header: BlobHeader }
  /** Sound so far; the rest takes the parent's container, which was not given. */
  | { readonly needsParent: Digest }
  | { readonly refused: Extract<ErrorCode, 'invalid_mask' | 'wrong_base'>; readonly message: string };

/**
 * Checks the container at `path` for a model. A container may cover some of the model's matrices: the others stay dense. It must cover
 * nothing else, in the shapes of the model, at 2:4. `ancestors`: what it may need to be decoded. Throws only what the system throws.
 */
export function checkContainerFile(
  path: string,
  rules: MaskRules,
  depth: CheckDepth,
  ancestors: readonly ContainerFile[] = [],
): CheckResult {
  const files = new OpenContainers(ancestors, rules);
  try {
    const source = files.source(path);
    const { needs } = new ContainerReader(source, { expectBase: rules.base });
    const hasParent = needs.parent === undefined || ancestors.some(({ content }) => content === needs.parent);
    if (needs.parent !== undefined && depth === 'whole' && !hasParent) return { needsParent: needs.parent };
    const reader = depth === 'whole' ? files.reader(path) : new ContainerReader(source);
    const misfit = findMisfit(reader.summary, rules);
    if (misfit !== undefined) return { refused: 'invalid_mask', message: misfit };
    if (depth === 'whole') reader.check();
    else checkChecksums(source);
    return { header: headerOf(reader.summary) };
  } catch (error) {
    if (error instanceof CodecError) return refusalOf(error);
    throw error;
  } finally {
    files.close();
  }
}

export function refusalOf({ code, message }: CodecError): CheckResult {
  if (code === 'wrong-base') return { refused: 'wrong_base', message };
  return { refused: 'invalid_mask', message: `not a valid container (${code}): ${message}` };
}

/** The same masks in a container that decodes by itself. Throws CodecError if the stored ones can't be decoded. */
export function flattenContainerFile(path: string, rules: MaskRules, ancestors: readonly ContainerFile[]): Uint8Array {
  const files = new OpenContainers(ancestors, rules);
  try {
    return encodeMaskSet(files.reader(path).maskSet());
  } finally {
    files.close();
  }
}

/** The first way in which a sound container does not fit the model; undefined if it does. */
export function findMisfit({ n, m, tensors }: ContainerSummary, { matrices }: MaskRules): string | undefined {
  if (n !== SERVED_N || m !== SERVED_M) {
    return `expected a ${SERVED_N}:${SERVED_M} mask set, which is what the kernels run, but received ${n}:${m}`;
  }
  const byName = new Map(matrices.map((matrix) => [matrix.name, matrix]));
  for (const { name, rows, cols } of tensors) {
    const matrix = byName.get(name);
    if (!matrix) {
      return `expected masks of the model's linear layers only (such as ${matrices[0]?.name ?? 'none'}), but received one of ${name}`;
    }
    if (matrix.rows !== rows || matrix.cols !== cols) {
      return `expected the mask of ${name} to be ${matrix.rows}x${matrix.cols} as in the model, but received ${rows}x${cols}`;
    }
    if (cols % COLS_MULTIPLE !== 0) {
      return `expected the columns of ${name} to be a multiple of ${COLS_MULTIPLE}, which the kernels need, but received ${cols}`;
    }
  }
  return undefined;
}

function checkChecksums(source: ByteSource): void {
  const { offsets, checksums } = readContainer(source).chunks;
  checksums.forEach((checksum, i) => {
    const start = offsets[i]!;
    if (crc32c(source.read(start, offsets[i + 1]! - start)) === checksum) return;
    throw new CodecError('chunk-checksum', `chunk ${i} differs from its checksum: the file is damaged, fetch it again`);
  });
}

function headerOf({ content, base, parent, needs, n, m, parameters }: ContainerSummary): BlobHeader {
  return { content, base, parent, needs, n, m, parameters };
}
