import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { native, type Handle } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import { floats, random } from './numbers.js';
import { scoped } from './scope.js';

const VOCAB = 3001;

interface Draw {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly uniform: number;
}

const NONE = [Int32Array.of(0), new Int32Array(0), new Float32Array(0)] as const;

/** A token of one row of several. */
function sampleRow(logits: Handle, row: number, vocab: number, { temperature, topK, topP, uniform }: Draw): number {
  const view = native.view(logits, row * vocab * 4, vocab * 4);
  const token = new Int32Array(1);
  native.sample(view, vocab, Float64Array.of(temperature, topK, topP, uniform), ...NONE, token);
  native.free(view);
  return token[0]!;
}

/** One draw for each of many settings: what must be the same on every instruction set. */
function drawMany(): number[] {
  return scoped((scope) => {
    const next = random(11);
    const logits = scope.put(floats(next, 4 * VOCAB).map((v) => v * 12));
    return Array.from({ length: 400 }, (_, i) => {
      const topK = [0, 1, 5, 40, 1000][i % 5] ?? 0;
      const [temperature, topP] = [0.2 + next() * 2, i % 3 === 0 ? 1 : 0.5 + next() / 2];
      return sampleRow(logits, i % 4, VOCAB, { temperature, topK, topP, uniform: next() });
    });
  });
}

/** softmax(logits / temperature) cut to topK then topP, and the id at `uniform`, by sorting everything. */
function drawByDefinition(logits: Float32Array, d: Draw): { id: number; probability: number }[] {
  const order = [...logits.keys()].sort((a, b) => (logits[b] ?? 0) - (logits[a] ?? 0) || a - b);
  const weight = (id: number): number => Math.exp(((logits[id] ?? 0) - (logits[order[0] ?? 0] ?? 0)) / d.temperature);
  let kept = d.topK > 0 ? order.slice(0, d.topK) : order;
  const whole = kept.reduce((sum, id) => sum + weight(id), 0);
  let mass = 0;
  const end = kept.findIndex((id) => (mass += weight(id)) >= d.topP * whole);
  if (d.topP < 1 && end >= 0) kept = kept.slice(0, end + 1);
  const total = kept.reduce((sum, id) => sum + weight(id), 0);
  return kept.map((id) => ({ id, probability: weight(id) / total }));
}

onEveryIsa(import.meta.url, () => {
  test('argmax is the lowest of the largest, NaN counting as minus infinity, in any row', () => {
    scoped((scope) => {
      for (const vocab of [1, 2, 15, 16, 17, 40, VOCAB]) {
        const rows = floats(random(vocab), 3 * vocab);
        const logits = scope.put(rows);
        for (let row = 0; row < 3; row++) {
          const part = rows.subarray(row * vocab, (row + 1) * vocab);
          assert.equal(native.argmax(logits, row, vocab), part.indexOf(Math.max(...part)));
        }
      }
      const argmax = (...row: number[]): number => native.argmax(scope.put(Float32Array.from(row)), 0, row.length);
      assert.equal(argmax(1, 5, 5, 2), 1);
      assert.equal(argmax(NaN, 1, NaN, 2, NaN), 3);
      assert.equal(argmax(NaN, NaN), 0);
      assert.equal(argmax(-Infinity, -Infinity), 0);
      assert.equal(argmax(1, Infinity, Infinity), 1);
      assert.equal(argmax(-0, 0), 0);
    });
  });

  test('over a grid of uniforms, each token is drawn as often as its probability says', () => {
    scoped((scope) => {
      const logits = floats(random(3), 50).map((v) => v * 4);
      const buffer = scope.put(logits);
      for (const [temperature, topK, topP] of [
        [1, 0, 1],
        [0.5, 0, 1],
        [2, 0, 0.7],
        [1, 7, 1],
        [1, 7, 0.6],
        [0.7, 100, 0.95],
        [1, 0, 1e-9],
      ] as const) {
        const steps = 20000;
        const counts = new Map<number, number>();
        for (let i = 0; i < steps; i++) {
          const id = sampleRow(buffer, 0, 50, { temperature, topK, topP, uniform: (i + 0.5) / steps });
          counts.set(id, (counts.get(id) ?? 0) + 1);
        }
        const expected = drawByDefinition(logits, { temperature, topK, topP, uniform: 0 });
        for (const { id, probability } of expected) {
          const share = (counts.get(id) ?? 0) / steps;
          assert.ok(Math.abs(share - probability) <= 1.01 / steps, `T=${temperature} k=${topK} p=${topP}: token ${id}`);
          counts.delete(id);
        }
        assert.equal(counts.size, 0, 'no token outside the cut is drawn');
      }
    });
  });

  test('topP keeps the smallest set that reaches it, also when that takes thousands of tokens', () => {
    scoped((scope) => {
      const logits = floats(random(4), VOCAB);
      const buffer = scope.put(logits);
      for (const topP of [0.1, 0.5, 0.9, 0.999]) {
        const kept = new Set(drawByDefinition(logits, { temperature: 1, topK: 0, topP, uniform: 0 }).map((c) => c.id));
        const drawn = new Set<number>();
        for (let i = 0; i < 4000; i++) {
          drawn.add(sampleRow(buffer, 0, VOCAB, { temperature: 1, topK: 0, topP, uniform: i / 4000 }));
        }
        assert.ok(
          [...drawn].every((id) => kept.has(id)),
          `topP ${topP}`,
        );
        assert.ok(drawn.size > kept.size * 0.5, `topP ${topP}: ${drawn.size} of ${kept.size} drawn`);
      }
    });
  });

  test('temperature 0 is greedy, equal logits are cut by id, NaN is never drawn', () => {
    scoped((scope) => {
      const sample = (row: number[], d: Draw): number => sampleRow(scope.put(Float32Array.from(row)), 0, row.length, d);
      assert.equal(sample([1, 3, 2, 3], { temperature: 0, topK: 0, topP: 1, uniform: 0.9 }), 1);
      for (let i = 0; i < 10; i++) {
        const uniform = i / 10;
        assert.ok(sample([2, 2, 2, 2, 2], { temperature: 1, topK: 2, topP: 1, uniform }) < 2);
        assert.equal(sample([NaN, 0, NaN, NaN], { temperature: 1, topK: 0, topP: 1, uniform }), 1);
        assert.equal(sample([NaN, NaN], { temperature: 1, topK: 0, topP: 0.5, uniform }), 0);
        assert.equal(sample([0, Infinity], { temperature: 1, topK: 0, topP: 0.5, uniform }), 1);
      }
      assert.equal(sample([0, 0, 0], { temperature: 1, topK: 0, topP: 1, uniform: 1 - 2 ** -53 }), 2);
    });
  });

  test('log-probabilities are those of the whole row in fp64', () => {
    scoped((scope) => {
      const logits = floats(random(6), 2 * VOCAB).map((v) => v * 30);
      const buffer = scope.put(logits);
      const row = logits.subarray(VOCAB);
      const largest = Math.max(...row);
      const total = row.reduce((sum, v) => sum + Math.exp(v - largest), 0);
      const exact = (id: number): number => (row[id] ?? 0) - largest - Math.log(total);

      const ids = Int32Array.from({ length: VOCAB }, (_, i) => i);
      const all = new Float64Array(VOCAB);
      native.logprobs(buffer, 1, VOCAB, ids, all);
      ids.forEach((id) => assert.ok(Math.abs((all[id] ?? NaN) - exact(id)) < 1e-11, `token ${id}`));

      for (const count of [0, 1, 5, 20, VOCAB]) {
        const best = new Int32Array(count);
        const out = new Float64Array(count);
        native.topLogprobs(buffer, 1, VOCAB, best, out);
        const order = [...ids].sort((a, b) => (row[b] ?? 0) - (row[a] ?? 0) || a - b);
        assert.deepEqual([...best], order.slice(0, count));
        best.forEach((id, i) => assert.equal(out[i], all[id]));
      }
    });
  });

  test('log-probabilities of rows with NaN and infinities are defined', () => {
    scoped((scope) => {
      const logprobs = (...row: number[]): number[] => {
        const out = new Float64Array(row.length);
        native.logprobs(scope.put(Float32Array.from(row)), 0, row.length, Int32Array.from(row.keys()), out);
        return [...out];
      };
      assert.deepEqual(logprobs(NaN, 0), [-Infinity, 0]);
      assert.deepEqual(logprobs(-Infinity, NaN), [-Math.log(2), -Math.log(2)]);
      assert.deepEqual(logprobs(Infinity, 0), [0, -Infinity]);
      const ids = new Int32Array(3);
      native.topLogprobs(scope.put(Float32Array.of(NaN, 1, NaN)), 0, 3, ids, new Float64Array(3));
      assert.deepEqual([...ids], [1, 0, 2]);
    });
  });

  test('a batch draws as each of its rows by itself, with biases of its own, and leaves all logits', () => {
    scoped((scope) => {
      const [rows, vocab] = [6, 300];
      const values = floats(random(8), rows * vocab).map((v) => v * 6);
      const logits = scope.put(values);
      const draws = Array.from({ length: rows }, (_, i) => ({
        temperature: i / 3,
        topK: 7 * (i % 3),
        topP: 1 - (i % 2) / 4,
        uniform: i / rows,
      }));
      const settings = Float64Array.from(
        draws.flatMap(({ temperature, topK, topP, uniform }) => [temperature, topK, topP, uniform]),
      );
      const tokens = new Int32Array(rows);
      native.sample(logits, vocab, settings, new Int32Array(rows), NONE[1], NONE[2], tokens);
      draws.forEach((draw, row) => assert.equal(tokens[row], sampleRow(logits, row, vocab, draw)));

      // Each but the first may not choose what it chose, the second may choose nothing but token 5.
      const counts = Int32Array.of(0, 1, 1, 1, 1, 1);
      const ids = tokens.slice(1);
      ids[0] = 5;
      const biased = new Int32Array(rows);
      native.sample(logits, vocab, settings, counts, ids, Float32Array.of(1e6, -1e6, -1e6, -1e6, -1e6), biased);
      assert.deepEqual([...biased.subarray(0, 2)], [tokens[0], 5]);
      for (let row = 2; row < rows; row++) assert.notEqual(biased[row], tokens[row]);
      assert.deepEqual(scope.floats(logits, rows * vocab), values);
    });
  });
});

if (process.argv[2] === 'draw') {
  process.stdout.write(`\n#draws ${JSON.stringify(drawMany())}\n`);
} else if (process.env['MASKSERVE_TEST_ISA'] === undefined) {
  test('the same logits and uniforms give the same tokens on every instruction set', () => {
    const runs = native.info().available.map((isa) => {
      const env = { ...process.env, MASKSERVE_ISA: isa, MASKSERVE_TEST_ISA: isa };
      const child = spawnSync(process.execPath, [fileURLToPath(import.meta.url), 'draw'], { env, encoding: 'utf8' });
      return /#draws (.*)/.exec(child.stdout)?.[1];
    });
    assert.ok(runs[0] !== undefined && (JSON.parse(runs[0]) as number[]).length === 400);
    for (const run of runs) assert.equal(run, runs[0]);
  });
}
