/**
 * Decoding steps that a GPU does again by one call. Of steps of as many sequences through the same weights each has its tokens, caches, positions and draws: the ops, from
 * the embedding to the token drawn, are recorded once, and replayed with those, whatever sequences come and go. Where nothing is recorded (the CPU), steps are done as they are.
 */
import { native } from '../../kernels/index.js';
import type { DecodeRow } from './decode-row.js';
import type { TaskWeights } from './types.js';

/** Of batches of other sizes or tasks: each keeps some 2 MiB of the GPU. */
const MOST_RECORDINGS = 16;

/** What a step has of its own. */
export interface StepInputs {
  readonly ids: Int32Array;
  readonly positions: Int32Array;
  /** How tokens are drawn (kernels/types.ts), and where they go; empty: none are. */
  readonly settings: Float64Array;
  readonly tokens: Int32Array;
}

export class RecordedSteps {
  /** By what was recorded; the least recently used first. */
  private readonly recordings = new Map<string, number>();
  private readonly refused = new Set<string>();
  private last = '';
  private possible = native.info().device !== null;

  /** @param vocab ids are below it */
  constructor(private readonly vocab: number) {}

  /** Does a step of `rows`, whose ops `step` calls: by itself, or as it was recorded. */
  run(rows: readonly DecodeRow[], inputs: StepInputs, step: () => void): void {
    if (!this.possible) return step();
    const name = `${inputs.tokens.length}:${nameOf(rows)}`;
    if (this.replayed(name, rows, inputs)) return;
    // The first of its kind brings working memory to its size, and chooses kernels.
    if (name !== this.last || this.refused.has(name)) {
      this.last = name;
      return step();
    }
    this.record(name, step);
    if (!this.replayed(name, rows, inputs)) step();
  }

  dispose(): void {
    for (const recording of this.recordings.values()) native.freeRecording(recording);
    this.recordings.clear();
    this.possible = false;
  }

  private replayed(name: string, rows: readonly DecodeRow[], inputs: StepInputs): boolean {
    const recording = this.recordings.get(name);
    if (recording === undefined) return false;
    this.recordings.delete(name);
    const { ids, positions, settings, tokens } = inputs;
    const caches = Float64Array.from(rows, ({ cache }) => cache.buffer);
    const capacities = Int32Array.from(rows, ({ cache }) => cache.capacity);
    if (native.replay(recording, ids, caches, positions, capacities, this.vocab, settings, tokens)) {
      this.recordings.set(name, recording);
      return true;
    }
    native.freeRecording(recording);
    // Working memory has to be brought to its size again.
    this.last = '';
    return false;
  }

  private record(name: string, step: () => void): void {
    this.possible = native.beginRecording();
    if (!this.possible) return;
    try {
      step();
    } catch {
      // Then nothing was recorded: `step` is done as it is, and says what is wrong with it.
    }
    const recording = native.endRecording();
    if (recording === 0) {
      this.refused.add(name);
      return;
    }
    this.recordings.set(name, recording);
    for (const [oldest, old] of this.recordings) {
      if (this.recordings.size <= MOST_RECORDINGS) return;
      this.recordings.delete(oldest);
      native.freeRecording(old);
    }
  }
}

/** What is recorded of the rows: how many, their caches' type, and their tasks' weights, each by one buffer that comes and goes with them. Handles are never used again. */
function nameOf(rows: readonly DecodeRow[]): string {
  return [rows[0]?.cache.type, ...rows.map(({ task }) => (task === null ? '' : weightsOf(task)))].join();
}

function weightsOf({ matrices, patches, codes, maskedDense }: TaskWeights): string {
  const parts = [firstOf(matrices)?.packed, firstOf(patches), firstOf(codes), firstOf(maskedDense)];
  return parts.map((handle) => handle ?? '').join('.');
}

function firstOf<T>(record: Readonly<Record<string, T>> | undefined): T | undefined {
  for (const name in record) return record[name];
  return undefined;
}
