/**
 * What the GPU reaches on LLaMA-2-7B's shapes: decoding and prefill of its matrices, a task's bytes, a cold switch, masks decoded on the
 * device, whole answers, and training at 1.1 B beside PyTorch's. Random weights; but for the answers one block of 32 is in memory, and what is said of the model is 32 times that block.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FileChunks } from '../../kernels/codec-types.js';
import { native, type CodedChunks, type CodedTensor, type CudaReport, type Handle } from '../../kernels/index.js';
import { median } from './forward.js';
import { gpuTrainingLine, measureGpuTraining, type GpuTrainingFigures } from './gpu-training.js';
import { generationTable, measureGeneration, type GenerationFigures } from './gpu-generation.js';
import {
  BLOCK,
  measureProduct,
  randomNibbles,
  randomWeights,
  synchronizedMs,
  type ProductFigures,
} from './gpu-layers.js';

const BLOCKS = 32;
const PROMPTS = [2048, 4096] as const;
/** Groups of a step and steps of a chunk, as containers have them (codec/FORMAT.md §8.2). */
const GROUPS_OF_STEP = 32;
const CHUNK_STEPS = 2048;
const UNIFORM_CODER = 2;

export interface GpuFigures {
  readonly device: CudaReport['device'];
  readonly architecture: string;
  readonly runtime: string;
  readonly parts: readonly { readonly name: string; readonly version: string | null; readonly file: string | null }[];
  /** What nvidia-smi says of clocks, power and driver, as found; null: it is not there. */
  readonly nvidiaSmi: Readonly<Record<string, string>> | null;
  readonly runs: number;
  readonly decode: readonly ProductFigures[];
  readonly prefill: readonly ProductFigures[];
  /** One block's matrices, by their counts: dense time over 2:4 time. */
  readonly block: { readonly decodeOverDense: number; readonly decodeOverCublasLt: number | null };
  /** Bytes of one task's compacted matrices over the dense ones. */
  readonly task: { readonly bytes: number; readonly share: number };
  /** Milliseconds for 32 blocks: chunks in a file that the system has in memory → compacted on the device. `decodeMs`: all but compacting. */
  readonly coldSwitch: { readonly decodeMs: number; readonly compactMs: number; readonly totalMs: number };
  /** Symbols of 2:4 masks decoded on the device in a second, upload of the chunks included, by 10⁹. */
  readonly decodedGigaSymbols: number;
  /** Whole answers, batch 1; null: the dense model and a task do not fit beside each other. */
  readonly generation: readonly GenerationFigures[] | null;
  /** null: logits of 1.1 B weights and their moments do not fit. */
  readonly training: GpuTrainingFigures | null;
}

/** Throws one line where no GPU can be used. */
export function measureGpu({ runs }: { readonly runs: number }): GpuFigures {
  const probe = native.probeCuda();
  if (!probe.usable) throw new Error(probe.reason);
  const report = JSON.parse(probe.report) as CudaReport;
  native.useBackend('cuda');
  const cublasLt = report.parts.some(({ name, file }) => name === 'cuBLASLt' && file !== null);
  const decode = BLOCK.map((shape) => measureProduct(shape, { tokens: 1, runs, cublasLt }));
  const prefill = BLOCK.flatMap((shape) => PROMPTS.map((tokens) => measureProduct(shape, { tokens, runs, cublasLt })));
  const cold = measureCold(runs);
  const dense = BLOCK.reduce((sum, { rows, cols, count }) => sum + rows * cols * count * 2, 0);
  const bytes = BLOCK.reduce((sum, { rows, cols, count }) => sum + native.packedBytes(rows, cols) * count, 0) * BLOCKS;
  return {
    device: report.device,
    architecture: native.info().isa,
    runtime: report.runtime,
    parts: report.parts.map(({ name, version, file }) => ({ name, version, file })),
    nvidiaSmi: nvidiaSmi(),
    runs,
    decode,
    prefill,
    block: {
      decodeOverDense: blockRatio(decode, ({ denseUs }) => denseUs),
      decodeOverCublasLt: cublasLt ? blockRatio(decode, ({ cublasLtUs }) => cublasLtUs ?? 0) : null,
    },
    task: { bytes, share: bytes / (dense * BLOCKS) },
    ...cold,
    generation: fits(GENERATION_BYTES) ? measureGeneration(cublasLt) : null,
    training: fits(TRAINING_BYTES) ? measureGpuTraining() : null,
  };
}

/** LLaMA-2-7B with one task, and its key-value cache: 13.5 + 8.1 + 2.1 GB, and what ops need. */
const GENERATION_BYTES = 26e9;
/** Six fp32 logits a group of 969 M weights, their gradients and two moments: 23 GB; weights, soft masks and activations: 8 GB; PyTorch as much for itself, one after the other. */
const TRAINING_BYTES = 40e9;

function fits(bytes: number): boolean {
  return native.memory().freeBytes > bytes;
}

function blockRatio(figures: readonly ProductFigures[], of: (one: ProductFigures) => number): number {
  const sum = (time: (one: ProductFigures) => number): number =>
    figures.reduce((total, one, i) => total + time(one) * (BLOCK[i]?.count ?? 0), 0);
  return sum(of) / sum(({ sparseUs }) => sparseUs);
}

interface Matrix {
  readonly weights: Handle;
  readonly packed: Handle;
  readonly mask: Handle;
  readonly tensor: CodedTensor;
}

/** Blocks that the loader has decoded in one call (server/store/compact-container.ts). */
const BLOCKS_AT_ONCE = 5;

function measureCold(runs: number): Pick<GpuFigures, 'coldSwitch' | 'decodedGigaSymbols'> {
  const matrices = Array.from({ length: BLOCKS_AT_ONCE }, () => BLOCK)
    .flat()
    .flatMap(({ rows, cols, count }) => Array.from({ length: count }, () => coldMatrix(rows, cols)));
  const tensors = matrices.map(({ tensor }) => tensor);
  const chunks = encodedChunks(tensors);
  const masks = matrices.map(({ tensor, mask }) => ({ ...tensor, mask }));
  const decodes = timesOf(runs, () => native.decodeMasks(masks, CHUNK_STEPS, 0, chunks));
  const compressed = matrices.map(({ tensor, weights, packed }) => ({ ...tensor, weights, packed }));
  let share = 0;
  const switches = withFile(chunks, (inFile) =>
    timesOf(runs, () => (share = native.decodeCompressed(compressed, CHUNK_STEPS, 0, inFile))),
  );
  if (chunks.statuses.some((status) => status !== 0)) throw new Error('expected every chunk to decode on the device');
  const symbols = tensors.reduce((sum, { groups }) => sum + groups, 0);
  for (const { weights, packed, mask } of matrices) for (const handle of [weights, packed, mask]) native.free(handle);
  const totalMs = (median(switches) * BLOCKS) / BLOCKS_AT_ONCE;
  return {
    coldSwitch: { decodeMs: totalMs * (1 - share), compactMs: totalMs * share, totalMs },
    decodedGigaSymbols: symbols / median(decodes) / 1e6,
  };
}

function timesOf(runs: number, work: () => unknown): number[] {
  return Array.from({ length: runs + 1 }, () => synchronizedMs(() => void work())).slice(1);
}

/** The chunks in a file, as a task's are. */
function withFile<T>({ payload, ...chunks }: CodedChunks, use: (chunks: FileChunks) => T): T {
  const folder = mkdtempSync(join(tmpdir(), 'maskserve-bench-'));
  try {
    const path = join(folder, 'chunks');
    writeFileSync(path, payload);
    const descriptor = openSync(path, 'r');
    try {
      return use({ ...chunks, file: { descriptor, offset: 0 } });
    } finally {
      closeSync(descriptor);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function coldMatrix(rows: number, cols: number): Matrix {
  const groups = (rows * cols) / 4;
  return {
    weights: randomWeights(rows * cols),
    packed: native.alloc(native.packedBytes(rows, cols)),
    mask: native.alloc(groups / 2),
    tensor: { coder: UNIFORM_CODER, groups, cols, cum: UNIFORM },
  };
}

/** Six symbols of nearly one frequency: 2¹⁴ slots, as in codec/FORMAT.md §5. */
const UNIFORM = Uint16Array.from({ length: 7 }, (_, symbol) => Math.round((symbol * 2 ** 14) / 6));

/** Random masks of the tensors, encoded by the CPU; their checksums compared by the decoder. */
function encodedChunks(tensors: readonly CodedTensor[]): CodedChunks {
  const filled = tensors.map((tensor, i) => ({ ...tensor, mask: randomNibbles(tensor.groups * 4, i + 1) }));
  const steps = tensors.reduce((sum, { groups }) => sum + Math.ceil(groups / GROUPS_OF_STEP), 0);
  const count = Math.ceil(steps / CHUNK_STEPS);
  const out = new Uint8Array(128 * count + 64 * steps);
  const [lengths, checksums] = [new Uint32Array(count), new Uint32Array(count)];
  const bytes = native.encodeMasks(filled, CHUNK_STEPS, 0, out, lengths, checksums);
  return { payload: out.subarray(0, bytes), lengths, checksums, statuses: new Int32Array(count).fill(-1) };
}

const SMI_FIELDS = [
  'name',
  'driver_version',
  'clocks.sm',
  'clocks.mem',
  'clocks.max.sm',
  'clocks.max.mem',
  'power.limit',
];

function nvidiaSmi(): Record<string, string> | null {
  const run = spawnSync('nvidia-smi', [`--query-gpu=${SMI_FIELDS.join(',')}`, '--format=csv,noheader', '-i', '0'], {
    encoding: 'utf8',
  });
  if (run.status !== 0) return null;
  const values = run.stdout.trim().split(', ');
  return Object.fromEntries(SMI_FIELDS.map((field, i) => [field, values[i] ?? '']));
}

export function gpuTable(figures: GpuFigures): string {
  const { device, decode, prefill, block, task, coldSwitch, decodedGigaSymbols, generation, training } = figures;
  const times = (value: number | null): string => (value === null ? 'not measured' : `${value.toFixed(2)}×`);
  const product = (one: ProductFigures): string =>
    `  ${one.shape.padEnd(28)} ${String(one.tokens).padStart(5)} tokens: dense ${one.denseUs.toFixed(1)} µs · cuBLASLt ` +
    `(${one.cublasLtTokens}) ${one.cublasLtUs?.toFixed(1) ?? '-'} µs · 2:4 ${one.sparseUs.toFixed(1)} µs · 2:4/dense ${times(one.sparseOverDense)} · ` +
    `2:4/cuBLASLt ${times(one.sparseOverCublasLt)}`;
  return [
    `GPU: ${device?.name ?? 'unknown'}, ${figures.architecture}, CUDA ${figures.runtime}`,
    ...[...decode, ...prefill].map(product),
    `  a block's matrices, one token: 2:4/dense ${times(block.decodeOverDense)} · 2:4/cuBLASLt ${times(block.decodeOverCublasLt)}`,
    `  a task of 32 blocks: ${(task.bytes / 2 ** 20).toFixed(0)} MiB, ${task.share.toFixed(4)} of its dense matrices`,
    `  cold switch of 32 blocks: decode ${coldSwitch.decodeMs.toFixed(1)} + compact ${coldSwitch.compactMs.toFixed(1)} = ${coldSwitch.totalMs.toFixed(1)} ms`,
    `  masks decoded on the device: ${decodedGigaSymbols.toFixed(1)} G symbols/s`,
    generation === null ? '  whole answers: not measured, for they take 26 GB' : generationTable(generation),
    training === null ? '  training: not measured, for it takes 40 GB' : gpuTrainingLine(training),
  ].join('\n');
}
