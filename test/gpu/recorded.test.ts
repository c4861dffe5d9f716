/** Decoding steps that are recorded and done again give the bits of steps that are not, whatever comes and goes between them. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test, type TestContext } from 'node:test';
import { Worker } from 'node:worker_threads';
import { native, type Handle } from '../../kernels/index.js';
import type { Draw } from '../../server/engine/draws.js';
import { KvCache } from '../../server/engine/kv-cache.js';
import type { DecodeRow } from '../../server/engine/decode-row.js';
import { loadModel, type Model } from '../../server/engine/model.js';
import type { TaskWeights } from '../../server/engine/types.js';
import { writeRandomModel } from '../bench/random-model.js';
import { assertSameBits, changed, metadata, random } from '../kernels/numbers.js';
import { noGpu, runningOn } from './gpu.js';
import { BEGIN, GIVEN_BACK, GIVING_BACK, STATE } from './release-signals.js';

const SHAPE = { hidden: 64, layers: 2, heads: 4, kvHeads: 2, ffn: 128, vocab: 96, context: 2048 };
const PROMPT = Int32Array.of(5, 77, 1, 9);
/** Beyond the first boundary at which a step is recorded anew. */
const CAPACITY = 1100;
/** Elements that take more than the 8 MiB which working memory begins with. */
const MANY = 4_300_000;
let many = 0;

const folder = mkdtempSync(join(tmpdir(), 'maskserve-recorded-'));
after(() => rmSync(folder, { recursive: true }));
writeRandomModel(folder, SHAPE);

/** A batch over three tasks, and a row of its own to come between its steps: then no two steps that follow each other are of one kind. */
class Steps {
  readonly logits: Float32Array[] = [];
  readonly tokens: Int32Array[] = [];
  private readonly rows: DecodeRow[];
  private readonly other: DecodeRow;
  private readonly owned: Handle[] = [];

  constructor(private readonly model: Model) {
    const [next, parent] = [random(3), new Map<string, Uint8Array>()];
    for (const { name, rows, cols } of model.info.maskable) parent.set(name, metadata(next, (rows * cols) / 8));
    const matrices = this.each((matrix, meta) => {
      const packed = this.keep(native.alloc(native.packedBytes(matrix.rows, matrix.cols)));
      native.compress24(packed, matrix.weight, meta(parent.get(matrix.name)!), matrix.rows, matrix.cols);
      return { packed };
    });
    const patches = this.each(({ name, rows, cols, weight }, meta) => {
      const child = meta(changed(next, parent.get(name)!, 0.05));
      const { packed } = matrices[name]!;
      const patch = this.keep(native.alloc(native.patchBytes24(packed, child, rows, cols)));
      native.buildPatch24(patch, packed, weight, child, rows, cols);
      return patch;
    });
    const general: TaskWeights = { digest: '', matrices, bytes: 0 };
    const tasks = [null, general, { ...general, patches }];
    this.rows = tasks.map((task) => ({ id: 0, cache: new KvCache(model.config, CAPACITY), task }));
    this.other = { id: 3, cache: new KvCache(model.config, CAPACITY), task: null };
    for (const { cache, task } of [...this.rows, this.other]) model.forward.run(PROMPT, cache, task);
  }

  /** Decodes `count` tokens of the rows `from` on; `biased`: one token of the last row can't be drawn. */
  step(count: number, { from = 0, interrupted = false, biased = false } = {}): void {
    for (let i = 0; i < count; i++) {
      const rows = this.rows.slice(from).map((row, r) => ({ ...row, id: (7 * this.logits.length + r) % SHAPE.vocab }));
      if (interrupted) this.model.forward.decode([this.other]);
      const draws = rows.map((_, r) => this.drawOf(r, biased));
      this.tokens.push(this.model.forward.decode(rows, draws));
      const logits = new Float32Array(rows.length * SHAPE.vocab);
      native.read(this.model.forward.logits, 0, logits);
      this.logits.push(logits);
    }
  }

  /** Greedy in the first row, else of several temperatures and cuts. */
  private drawOf(row: number, biased: boolean): Draw {
    const uniform = ((7 * this.tokens.length + row) % 10) / 10;
    const deltas = new Map(biased && row === 2 ? [[this.tokens.at(-1)![2]!, -100]] : []);
    return { temperature: row * 0.8, topK: 10 * row, topP: 1 - row / 10, uniform, deltas };
  }

  /** As if so many tokens had come; what the caches hold there is what memory was filled with. */
  skipTo(position: number): void {
    for (const { cache } of this.rows) cache.length = position;
  }

  /** The last two rows end, and sequences of the same tasks begin. */
  replace(): void {
    for (const row of [1, 2]) {
      const { cache, task } = this.rows[row]!;
      cache.dispose();
      this.rows[row] = { id: 0, cache: new KvCache(this.model.config, 300 * row), task };
      this.model.forward.run(PROMPT.subarray(row), this.rows[row].cache, task);
    }
  }

  /** An op that needs more working memory than any before: what is not aligned is copied there. */
  needMemory(): void {
    many += MANY;
    const [from, to] = [native.alloc(2 * many + 1), native.alloc(4 * many)];
    const unaligned = native.view(from, 1, 2 * many);
    native.toF32(to, unaligned, 'bf16', many);
    for (const handle of [unaligned, from, to]) native.free(handle);
  }

  dispose(): void {
    for (const { cache } of [...this.rows, this.other]) cache.dispose();
    for (const handle of this.owned) native.free(handle);
  }

  private each<T>(
    make: (matrix: Model['info']['maskable'][number], meta: (nibbles: Uint8Array) => Handle) => T,
  ): Record<string, T> {
    const upload = (nibbles: Uint8Array): Handle => {
      const handle = this.keep(native.alloc(nibbles.length));
      native.write(handle, 0, nibbles);
      return handle;
    };
    return Object.fromEntries(this.model.info.maskable.map((matrix) => [matrix.name, make(matrix, upload)]));
  }

  private keep(handle: Handle): Handle {
    this.owned.push(handle);
    return handle;
  }
}

interface Played {
  readonly logits: readonly Float32Array[];
  readonly tokens: readonly Int32Array[];
  readonly recorded: number;
  readonly replayed: number;
}

/** What `play` decodes, and how many of its steps were recorded and replayed. */
function played(t: TestContext, play: (steps: Steps) => void): Played {
  const replay = t.mock.method(native, 'replay');
  const record = t.mock.method(native, 'beginRecording');
  return runningOn('cuda', () => {
    const model = loadModel(folder);
    const steps = new Steps(model);
    try {
      play(steps);
      const replayed = replay.mock.calls.filter(({ result }) => result === true).length;
      return { logits: steps.logits, tokens: steps.tokens, recorded: record.mock.callCount(), replayed };
    } finally {
      replay.mock.restore();
      record.mock.restore();
      steps.dispose();
      model.dispose();
    }
  });
}

// The first of this file's: what comes later finds as much working memory as was needed before.
test('a step is recorded in the working memory that the one before it took', { skip: noGpu }, () => {
  runningOn('cuda', () => {
    // Partial sums of just below the 8 MiB that working memory begins with, and beyond them for the positions that a recording is to reach.
    const [rows, heads, headDim, capacity] = [8, 32, 256, 8448];
    const buffers = Array.from({ length: 3 }, () => native.alloc(rows * heads * headDim * 4));
    const [table, cos, sin] = Array.from({ length: 3 }, () => native.alloc((capacity * headDim * 4) / 2));
    const caches = native.alloc(2 * capacity * headDim * 2);
    const views = [0, 1].map((part) => native.view(caches, part * capacity * headDim * 2, capacity * headDim * 2));
    const [out, q, k] = buffers as [Handle, Handle, Handle];
    const v = native.alloc(rows * headDim * 4);
    const step = (position: number): void => {
      native.embed(q, table!, new Int32Array(rows), 2, headDim);
      const [keys, values] = views.map((view) => new Float64Array(rows).fill(view));
      const positions = new Int32Array(rows).fill(position);
      const capacities = new Int32Array(rows).fill(capacity);
      native.attendRows(
        ...([out, q, k, v, cos!, sin!, keys!, values!, positions, capacities] as const),
        ...([heads, 1, headDim, 1, 4, 'bf16'] as const),
      );
    };
    try {
      step(7300);
      assert.ok(native.beginRecording());
      let recording = 0;
      try {
        step(7301);
      } finally {
        recording = native.endRecording();
      }
      assert.notEqual(recording, 0);
      native.freeRecording(recording);
    } finally {
      for (const handle of [...buffers, table!, cos!, sin!, v, ...views, caches]) native.free(handle);
    }
  });
});

/** Name, recordings, and what happens. */
const SCENES: readonly (readonly [string, number, (steps: Steps, interrupted: boolean) => void])[] = [
  ['the same sequences, token after token', 1, (steps, interrupted) => steps.step(4, { interrupted })],
  [
    'a sequence that ends, and the others that go on',
    2,
    (steps, interrupted) => {
      steps.step(3, { interrupted });
      steps.step(3, { from: 1, interrupted });
    },
  ],
  [
    'other sequences in their places, with caches of other sizes',
    1,
    (steps, interrupted) => {
      steps.step(3, { interrupted });
      steps.replace();
      steps.step(3, { interrupted });
    },
  ],
  [
    'another op in between, for which working memory moves',
    2,
    (steps, interrupted) => {
      steps.step(3, { interrupted });
      steps.needMemory();
      steps.step(2, { interrupted });
    },
  ],
  [
    'tokens with a bias, whose draws are no part of what is recorded',
    2,
    (steps, interrupted) => {
      steps.step(3, { interrupted });
      steps.step(3, { interrupted, biased: true });
      steps.step(1, { interrupted });
    },
  ],
  [
    'positions beyond those that a step was recorded for',
    2,
    (steps, interrupted) => {
      steps.skipTo(1021);
      steps.step(5, { interrupted });
    },
  ],
];

for (const [name, recorded, play] of SCENES) {
  test(`recorded: ${name}`, { skip: noGpu }, (t) => {
    const expected = played(t, (steps) => play(steps, true));
    const actual = played(t, (steps) => play(steps, false));
    assert.deepEqual([expected.recorded, expected.replayed], [0, 0]);
    assert.equal(actual.recorded, recorded);
    // The first of a kind is neither.
    assert.ok(
      actual.replayed >= actual.logits.length - 2,
      `${actual.replayed} of ${actual.logits.length} steps were replayed`,
    );
    assert.equal(actual.logits.length, expected.logits.length);
    assert.deepEqual(actual.tokens, expected.tokens);
    actual.logits.forEach((logits, step) => assertSameBits(logits, expected.logits[step]!, `step ${step}`));
    assert.ok(actual.logits.every((logits) => logits.every(Number.isFinite)));
  });
}

test(
  'memory that another thread gives back while a step is recorded waits for its end, and leaves it whole',
  { skip: noGpu },
  async () => {
    const signals = new Int32Array(new SharedArrayBuffer(8));
    const worker = new Worker(new URL('./release.worker.js', import.meta.url), { workerData: signals });
    const ended = once(worker, 'exit');
    await once(worker, 'message');
    runningOn('cuda', () => {
      const x = native.alloc(256);
      assert.ok(native.beginRecording());
      Atomics.store(signals, BEGIN, 1);
      Atomics.notify(signals, BEGIN);
      Atomics.wait(signals, STATE, 0);
      Atomics.wait(signals, STATE, GIVING_BACK, 100);
      native.add(x, x, 64);
      const recording = native.endRecording();
      native.free(x);
      assert.notEqual(recording, 0);
      native.freeRecording(recording);
    });
    await ended;
    assert.equal(Atomics.load(signals, STATE), GIVEN_BACK);
  },
);
