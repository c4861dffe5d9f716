/** Where ops run: the exports of the native addon that choose a backend and say what was found. Part of `types.ts`. */
import type { Handle } from './handle.js';

/** Instruction sets the CPU backend is compiled for, best first. */
export type Isa = 'avx512' | 'avx2' | 'scalar';

export type BackendName = 'cpu' | 'cuda';

export interface BackendInfo {
  /** Version of the op table (`kernels/include/backend.h`). */
  readonly abiVersion: number;
  readonly backend: BackendName;
  /** CPU: chosen by cpuid, or forced by MASKSERVE_ISA; asking for one the machine lacks throws when the addon is loaded. CUDA: like `sm_90`. */
  readonly isa: Isa | `sm_${string}`;
  /** All that this machine could run, best first. */
  readonly available: readonly string[];
  /** Threads of this thread's pool, the caller included. */
  readonly threads: number;
  /** What a GPU is called by its maker; null: ops run on the CPU, in host memory. */
  readonly device: string | null;
}

/** What became of looking for the CUDA backend. */
export interface CudaProbe {
  readonly usable: boolean;
  /** The library that was looked for. */
  readonly file: string;
  /** Why it can't be used and what to do; empty where it can. */
  readonly reason: string;
  /** JSON of a `CudaReport`; empty where there is no library to ask. */
  readonly report: string;
}

/** Something that the CUDA backend looks for at run time. */
export interface FoundPart {
  readonly name: 'driver' | 'cuSPARSELt' | 'cuBLASLt';
  /** Null: none is used. */
  readonly version: string | null;
  readonly file: string | null;
  /** Where it was looked for and what was wrong there, in that order. */
  readonly refused: readonly { readonly at: string; readonly reason: string }[];
  /** Of what is used all the same. */
  readonly warning: string | null;
}

export interface CudaReport {
  /** CUDA runtime that the library was built with, like `13.0`. */
  readonly runtime: string;
  /** GPUs that it was compiled for, like `sm_90a`. */
  readonly architectures: readonly string[];
  readonly device: {
    readonly name: string;
    /** Like `sm_90`. */
    readonly architecture: string;
    readonly totalBytes: number;
    readonly freeBytes: number;
    readonly multiprocessors: number;
    readonly clockKHz: number;
    readonly memoryClockKHz: number;
  } | null;
  /** Whether the kernels of a decoding step begin while the one in front still runs, or why not; null where nothing runs. */
  readonly overlap: { readonly used: boolean; readonly reason: string | null } | null;
  readonly parts: readonly FoundPart[];
}

export interface NativeBackends {
  info(): BackendInfo;
  /** Looks for the CUDA backend, once a process, wherever ops run now. Never throws. */
  probeCuda(): CudaProbe;
  /**
   * Where ops called from this JavaScript thread run from now on, and whose memory `alloc` gives. Throws with probeCuda's reason. Buffers stay
   * where they are; ops refuse those that they can't reach, while read, write, copy, zero and free take any.
   */
  useBackend(name: BackendName): void;
  /** The backend's memory: this machine's, or the GPU's. */
  memory(): { freeBytes: number; totalBytes: number };
  /** Waits until all that was asked for from this thread has been done: what another thread is to see, or a clock to time. */
  synchronize(): void;
  /**
   * From here to `endRecording`, ops of this thread are kept and not done: with the buffers that they name, and copies of what they take from
   * arrays. They are those of a decoding step: one `embed`, and what follows it up to `sample` without deltas. An op that gives something
   * else to the host throws. False: this backend records nothing.
   */
  beginRecording(): boolean;
  /** Number of what was recorded, to be freed; 0 if an op failed. */
  endRecording(): number;
  /**
   * Does a recorded step with other ids, below `vocab`, of other sequences: caches (rows) holds all of each one's, which lie one behind the other, keys and
   * values of one `attendRows` after the other; where `sample` was recorded, with other `settings` of its (else `settings` and `tokens` are empty), and
   * fills `tokens`. False, and nothing is done, if it has to be recorded anew: working memory has moved, the precision is another, or a position is
   * beyond the next multiple of 1,024. The other buffers that it was recorded with must be live.
   */
  replay(
    recording: number,
    ids: Int32Array,
    caches: Float64Array,
    positions: Int32Array,
    capacities: Int32Array,
    vocab: number,
    settings: Float64Array,
    tokens: Int32Array,
  ): boolean;
  freeRecording(recording: number): void;
  /** Threads that ops called from this JavaScript thread may use, the caller included. 0: all cores. */
  setThreads(threads: number): void;
  /**
   * `bf16` (default): matmuls round activations to bf16 where the CPU multiplies bf16. `f32`: activations keep fp32
   * (gradient checks, parity). Accumulation is fp32 in both. Applies to ops called from this JavaScript thread.
   */
  setPrecision(precision: 'bf16' | 'f32'): void;
  /** On a GPU, ops called from this JavaScript thread give way from now on to those of threads that don't. A processor's threads have the system's priorities. */
  giveWay(): void;
  /** Zeroed, 64-byte aligned, in host memory whatever ops run on. Throws RangeError when memory can't be had. */
  allocHost(bytes: number): Handle;
  /** Bytes of a compacted (N, K) matrix here: 9/16 of the dense ones, and what else this backend keeps with it. */
  packedBytes(n: number, k: number): number;
  /** buffer ← from: both in host memory, both in the same GPU's, or one in each. Throws on a read-only mapping, and where they overlap. */
  copy(buffer: Handle, byteOffset: number, from: Handle, fromOffset: number, bytes: number): void;
}
