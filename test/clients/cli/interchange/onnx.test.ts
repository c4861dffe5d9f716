/**
 * The exported ONNX model in onnxruntime, against transformers' fp32 logits of every architecture the engine claims (fixtures/architectures) and
 * against the engine in fp32 on the embedded model.
 */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type BaseModel, openBase } from '../../../../clients/cli/interchange/base-model.js';
import { type ChosenMask, maskPath, openChosenMask } from '../../../../clients/cli/interchange/chosen-mask.js';
import { exportDense } from '../../../../clients/cli/interchange/checkpoint-export.js';
import type { GraphOptions } from '../../../../clients/cli/interchange/onnx/llama-graph.js';
import { exportOnnx } from '../../../../clients/cli/interchange/onnx/onnx-export.js';
import { native } from '../../../../kernels/index.js';
import { loadModel } from '../../../../server/engine/model.js';
import { logitsOf } from '../../../model/in-process.js';
import { TINY } from '../../../tiny.js';
import { emptyPast, largestDifference, openSession, run } from './onnx-session.js';

const FIXTURES = fileURLToPath(new URL('../../../../../test/fixtures/architectures', import.meta.url));
const NAMES = readdirSync(FIXTURES, { withFileTypes: true }).flatMap((e) => (e.isDirectory() ? [e.name] : []));
/** Of logits that reach tens: two fp32 computations in different orders. */
const TOLERANCE = 1e-4;

const scratch = mkdtempSync(join(tmpdir(), 'maskctl-onnx-'));
after(() => rmSync(scratch, { recursive: true }));
let exports = 0;

function exported(base: BaseModel, options: Partial<GraphOptions> = {}, mask?: ChosenMask): string {
  const directory = join(scratch, String(exports++));
  mkdirSync(directory);
  exportOnnx(directory, base, mask, { cache: true, logits: 'all', ...options }, () => undefined);
  return directory;
}

for (const name of NAMES) {
  describe(`a ${name} miniature in onnxruntime`, () => {
    const directory = join(FIXTURES, name);
    const base = openBase(directory);
    const { vocab } = base.config;
    const expected = JSON.parse(readFileSync(join(directory, 'expected.json'), 'utf8')) as {
      prompt: number[];
      logits: string;
    };
    const { prompt } = expected;
    const theirs = decoded(expected.logits);

    it('has the logits of transformers within 1e-4, without a cache', async (t) => {
      const session = await openSession(exported(base, { cache: false }));
      const { logits, dims } = await run(session, [prompt], {});
      assert.deepEqual(dims, [1, prompt.length, vocab]);
      const difference = largestDifference(logits, theirs);
      t.diagnostic(`${name}: ${difference.toExponential(2)}`);
      assert.ok(difference <= TOLERANCE, `largest difference ${difference}`);
      await session.release();
    });

    it('has them through past keys and values: a prefill, then token by token', async () => {
      const session = await openSession(exported(base));
      let step = await run(session, [prompt.slice(0, 20)], emptyPast(base.config));
      const rows = [step.logits];
      for (const id of prompt.slice(20)) rows.push((step = await run(session, [[id]], step.past)).logits);
      const difference = largestDifference(joined(rows), theirs);
      assert.ok(difference <= TOLERANCE, `largest difference ${difference}`);
      await session.release();
    });
  });
}

describe('the embedded model in onnxruntime', () => {
  const base = openBase(TINY);
  const { vocab } = base.config;
  const ids = Array.from({ length: 300 }, (_, i) => (i * 7919 + 5) % vocab);

  it('has the logits of the engine in fp32 within 1e-4', async (t) => {
    const session = await openSession(exported(base));
    const { logits } = await run(session, [ids], emptyPast(base.config));
    const difference = largestDifference(logits, engineLogits(TINY, ids));
    t.diagnostic(difference.toExponential(2));
    assert.ok(difference <= TOLERANCE, `largest difference ${difference}`);
    await session.release();
  });

  it('has those of the masked checkpoint when a task is exported, and others than the dense model', async (t) => {
    const mask = openChosenMask(maskPath(TINY, 'general'), base);
    const checkpoint = join(scratch, 'checkpoint');
    mkdirSync(checkpoint);
    exportDense(checkpoint, base, mask, () => undefined);
    const session = await openSession(exported(base, {}, mask));
    mask.close();
    const { logits } = await run(session, [ids], emptyPast(base.config));
    const difference = largestDifference(logits, engineLogits(checkpoint, ids));
    t.diagnostic(difference.toExponential(2));
    assert.ok(difference <= TOLERANCE, `largest difference ${difference}`);
    assert.ok(largestDifference(logits, engineLogits(TINY, ids)) > 1);
    await session.release();
  });

  it('computes the sequences of a batch as it does each alone, from a cache too', async () => {
    const session = await openSession(exported(base));
    const [a, b] = [ids.slice(0, 20), ids.slice(100, 120)] as const;
    const alone = [await run(session, [a], emptyPast(base.config)), await run(session, [b], emptyPast(base.config))];
    const first = await run(session, [a.slice(0, 15), b.slice(0, 15)], emptyPast(base.config, 2));
    const second = await run(session, [a.slice(15), b.slice(15)], first.past);
    assert.deepEqual(second.dims, [2, 5, vocab]);
    alone.forEach(({ logits }, row) => {
      const tail = logits.subarray(15 * vocab);
      const own = second.logits.subarray(row * 5 * vocab, (row + 1) * 5 * vocab);
      assert.ok(largestDifference(own, tail) <= TOLERANCE);
    });
    await session.release();
  });

  it('gives the last position alone when asked to', async () => {
    const [all, last] = [await openSession(exported(base)), await openSession(exported(base, { logits: 'last' }))];
    const batch = [ids.slice(0, 9), ids.slice(50, 59)];
    const every = await run(all, batch, emptyPast(base.config, 2));
    const only = await run(last, batch, emptyPast(base.config, 2));
    assert.deepEqual(only.dims, [2, 1, vocab]);
    batch.forEach((_, row) => {
      const tail = every.logits.subarray((row * 9 + 8) * vocab, (row * 9 + 9) * vocab);
      assert.ok(largestDifference(only.logits.subarray(row * vocab, (row + 1) * vocab), tail) <= TOLERANCE);
    });
    await Promise.all([all.release(), last.release()]);
  });
});

function engineLogits(directory: string, ids: readonly number[]): Float32Array {
  const model = loadModel(directory, { threads: 1 });
  try {
    native.setPrecision('f32');
    return logitsOf(model, ids);
  } finally {
    native.setPrecision('bf16');
    model.dispose();
  }
}

function decoded(base64: string): Float32Array {
  return new Float32Array(new Uint8Array(Buffer.from(base64, 'base64')).buffer);
}

function joined(rows: readonly Float32Array[]): Float32Array {
  return Float32Array.from(rows.flatMap((row) => [...row]));
}
