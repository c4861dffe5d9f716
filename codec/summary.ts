/** What a container says without being decoded. */
import type { Container } from './container.js';
import type { Needs } from './context.js';
import type { CoderName } from './coder.js';
import type { ChunkPlan, TensorEntry } from './layout.js';
import type { Digest } from './mask-set.js';

/** What a container's header and tables say. Nothing of it was decoded. */
export interface ContainerSummary {
  readonly version: number;
  readonly n: number;
  readonly m: number;
  readonly base: Digest;
  readonly parent: Digest | undefined;
  /** Content digest (FORMAT.md §10): what a child names as its parent. */
  readonly content: Digest;
  readonly needs: Needs;
  /** Weights covered: the sum of rows · cols. */
  readonly parameters: number;
  readonly fileBytes: number;
  /** Coded chunks alone. */
  readonly payloadBytes: number;
  /** 8 · fileBytes / parameters */
  readonly bitsPerParameter: number;
  readonly chunkSymbols: number;
  /** Empty if they are the parent's, and it was not given. */
  readonly tensors: readonly TensorSummary[];
}

export interface TensorSummary {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly groups: number;
  readonly coder: CoderName;
  /** Changed groups, for patches; else undefined. */
  readonly changes: number | undefined;
  /** Chunks that hold some of it. */
  readonly chunks: number;
  /** Of its chunks; where tensors share a chunk, its share by symbols or changes. All of them add up to the payload. */
  readonly payloadBytes: number;
}

/** `order`: the tensors to show, by index in the order of coding. */
export function summarize(container: Container, order: readonly number[]): ContainerSummary {
  const { header, needs, fileBytes, tensors = [] } = container;
  const { n, m } = header.patterns;
  const parameters = (header.groups ?? tensors.reduce((sum, { groups }) => sum + groups, 0)) * m;
  const shares = payloadShares(container);
  return {
    version: header.version,
    n,
    m,
    base: header.base,
    parent: header.parent,
    content: header.content,
    needs,
    parameters,
    fileBytes,
    payloadBytes: header.payloadBytes,
    bitsPerParameter: (8 * fileBytes) / parameters,
    chunkSymbols: 2 ** header.chunkLog2,
    tensors: order.map((index) => summarizeTensor(tensors[index]!, shares.bytes[index]!, shares.chunks[index]!)),
  };
}

function summarizeTensor(tensor: TensorEntry, payloadBytes: number, chunks: number): TensorSummary {
  const { name, rows, cols, groups, coder } = tensor;
  const changes = coder.form === 'patch' ? tensor.changes : undefined;
  return { name, rows, cols, groups, coder: coder.name, changes, chunks, payloadBytes };
}

/** Chunks and bytes of each tensor. */
function payloadShares({ tensors = [], plans = [], chunks }: Container): { bytes: number[]; chunks: number[] } {
  const shares = { bytes: tensors.map(() => 0), chunks: tensors.map(() => 0) };
  plans.forEach((plan, chunk) => {
    const bytes = chunks.offsets[chunk + 1]! - chunks.offsets[chunk]!;
    const parts = partsOf(plan, tensors);
    const whole = parts.reduce((sum, { weight }) => sum + weight, 0);
    let seen = 0;
    for (const { tensor, weight } of parts) {
      const before = Math.round((bytes * seen) / whole);
      seen += weight;
      shares.bytes[tensor]! += Math.round((bytes * seen) / whole) - before;
      shares.chunks[tensor]!++;
    }
  });
  return shares;
}

function partsOf(plan: ChunkPlan, tensors: readonly TensorEntry[]): { tensor: number; weight: number }[] {
  switch (plan.kind) {
    case 'arithmetic':
      return [{ tensor: plan.piece.tensor, weight: plan.piece.count }];
    case 'dense':
      return plan.pieces.map(({ tensor, count }) => ({ tensor, weight: count }));
    case 'patch':
      return plan.tensors.map((tensor) => ({ tensor, weight: tensors[tensor]!.changes }));
    case 'scales':
      return plan.tensors.map((tensor) => ({ tensor, weight: tensors[tensor]!.cols }));
  }
}
