/** Pruned Hugging Face checkpoints → masks for the base that they come from. */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { openBase } from '../../../../clients/cli/interchange/base-model.js';
import { importCheckpoint } from '../../../../clients/cli/interchange/checkpoint-import.js';
import type { Imported } from '../../../../clients/cli/interchange/imported.js';
import type { Completion } from '../../../../clients/cli/interchange/kept-bits.js';
import { writeSafetensors } from '../../../../server/engine/safetensors-writer.js';
import { BIASED, BIASED_LAYERS, modelLike } from './foreign.js';

const FIXTURES = fileURLToPath(new URL('../../../../../test/fixtures/architectures', import.meta.url));
const LINEAR = new Set(BIASED_LAYERS.map(([name]) => name));
const [FIRST] = BIASED_LAYERS[0]!;
const GROUPS = BIASED_LAYERS.reduce((sum, [, rows, cols]) => sum + (rows * cols) / 4, 0);
/** Positions that each symbol prunes. */
const PRUNED = [
  [2, 3],
  [1, 3],
  [1, 2],
  [0, 3],
  [0, 2],
  [0, 1],
] as const;

const scratch = mkdtempSync(join(tmpdir(), 'maskctl-checkpoint-'));
after(() => rmSync(scratch, { recursive: true }));
const biased = openBase(BIASED);
let models = 0;

type Change = (name: string, weights: Uint16Array) => void;
const model = (change: Change, source = BIASED): string => modelLike(source, join(scratch, String(models++)), change);

/** Prunes group g to symbol (5 g + 1) mod 6, with +0 and −0 in turn. */
const prune: Change = (name, weights) => {
  if (!LINEAR.has(name)) return;
  for (let g = 0; g < weights.length / 4; g++) {
    const [a, b] = PRUNED[(5 * g + 1) % 6]!;
    weights[4 * g + a] = 0;
    weights[4 * g + b] = 0x8000;
  }
};
const expected = (groups: number): number[] => Array.from({ length: groups }, (_, g) => (5 * g + 1) % 6);

const imported = (directory: string, completion: Completion = 'zeros', base = biased): Imported =>
  importCheckpoint(directory, base, completion, () => undefined);
const refused = (directory: string, message: RegExp, base = biased): void =>
  assert.throws(
    () => imported(directory, 'zeros', base),
    (error: Error) => {
      assert.match(error.message, message);
      assert.doesNotMatch(error.message, /\n/);
      return true;
    },
  );

test('weights that are not zero are kept, and either zero is pruned', () => {
  const { masks, dense, counts } = imported(model(prune));
  assert.deepEqual(
    masks.map(({ name, rows, cols }) => [name, rows, cols]),
    BIASED_LAYERS,
  );
  for (const { symbols } of masks) assert.deepEqual([...symbols], expected(symbols.length));
  assert.deepEqual(dense, []);
  assert.deepEqual([counts.groups, counts.completedAtZeros], [GROUPS, 0]);
});

test('a base in several files takes a checkpoint in one, of another type with the same values', () => {
  const sharded = join(FIXTURES, 'llama-sharded');
  const base = openBase(sharded);
  const tensors = [...base.tensors.values()].map((tensor) => {
    const weights = bf16Of(tensor);
    prune(tensor.name, weights);
    const bytes = new Uint8Array(Uint32Array.from(weights, (bits) => bits << 16).buffer); // fp32
    const read = (offset: number, into: Uint8Array): void => into.set(bytes.subarray(offset, offset + into.length));
    return { name: tensor.name, type: 'F32' as const, shape: tensor.shape, read };
  });
  const single = join(scratch, 'single');
  mkdirSync(single);
  writeSafetensors(join(single, 'model.safetensors'), tensors);
  const { masks } = imported(single, 'zeros', base);
  assert.equal(masks.length, BIASED_LAYERS.length);
  for (const { symbols } of masks) assert.deepEqual([...symbols], expected(symbols.length));
  refused(sharded, /nothing is pruned/, base);
});

test('the types that models come in are compared by value', () => {
  for (const name of ['llama-f16', 'llama-f32']) {
    const source = join(FIXTURES, name);
    const base = openBase(source);
    const pruned = modelLike(source, join(scratch, name), (tensor, halves) => {
      if (name === 'llama-f16') return prune(tensor, halves);
      if (!LINEAR.has(tensor)) return;
      const weights = new Uint32Array(halves.buffer);
      for (let g = 0; g < weights.length / 4; g++) for (const i of PRUNED[(5 * g + 1) % 6]!) weights[4 * g + i] = 0;
    });
    const { masks } = imported(pruned, 'zeros', base);
    for (const { symbols } of masks) assert.deepEqual([...symbols], expected(symbols.length));
  }
});

test('a layer that was left as it is stays dense', () => {
  const kept = new Set(BIASED_LAYERS.slice(9, 11).map(([name]) => name));
  const { masks, dense, counts } = imported(
    model((name, weights) => (kept.has(name) ? undefined : prune(name, weights))),
  );
  assert.deepEqual(dense, [...kept]);
  assert.equal(masks.length, BIASED_LAYERS.length - 2);
  assert.equal(counts.tooMany, 0);
});

test('a group with one weight is completed at a zero of the base, and a weight that the base has as zero is no loss', () => {
  const base = openBase(model((name, weights) => (name === FIRST ? (weights[0] = 0) : undefined)));
  const pruned = model((name, weights) => {
    prune(name, weights);
    if (name === FIRST) weights.set([0, 0, 0], 0); // keeps position 3 alone, or nothing
    if (name === FIRST) weights[3] = biasedFirst()[3]!;
  });
  const { masks, counts } = imported(pruned, 'zeros', base);
  assert.equal(masks[0]!.symbols[0], 2); // 1001
  assert.equal(counts.completedAtZeros, 1);
  refused(
    pruned,
    new RegExp(`: 1 of ${GROUPS} groups keep fewer than 2 weights .* the first in ${FIRST}, row 0, columns 0 to 3`),
  );
  assert.equal(imported(pruned, 'magnitude').counts.completedByMagnitude, 1);
});

test('kept weights with other values than the base are refused with their number, the first of them, and the way out', () => {
  const updated = model((name, weights) => {
    prune(name, weights);
    if (name !== BIASED_LAYERS[3]![0]) return;
    for (const at of [33, 34, 35, 100, 101]) if (weights[at]! << 17 !== 0) weights[at]! ^= 1;
  });
  refused(
    updated,
    /: \d+ kept weights differ from those of .*llama-bias, the first in model\.layers\.0\.self_attn\.o_proj\.weight, row 1, column \d: \S+ for \S+; .*import the checkpoint for itself/,
  );
  const itself = imported(updated, 'zeros', openBase(updated));
  for (const { symbols } of itself.masks) assert.deepEqual([...symbols], expected(symbols.length));
});

test('what is not 2:4, has other shapes, or is compressed, is refused', () => {
  refused(
    model((name, weights) => {
      prune(name, weights);
      if (name === FIRST) weights.set(biasedFirst().subarray(0, 8), 0);
    }),
    new RegExp(
      `: expected at most 2 kept weights in every group of 4, but 2 of ${GROUPS} groups keep more, the first in ${FIRST}, row 0, columns 0 to 3: it is not 2:4`,
    ),
  );
  refused(BIASED, /expected linear weights that are 2:4, but all are those of .*: nothing is pruned/);
  refused(
    join(FIXTURES, 'llama2'),
    /tensor model\.layers\.0\.self_attn\.q_proj\.weight of shape 32x32 in .*llama2, but it has 48x48/,
  );
  const compressed = join(scratch, 'compressed');
  cpSync(BIASED, compressed, { recursive: true });
  const name = FIRST.replace('.weight', '.compressed');
  writeSafetensors(join(compressed, 'model.safetensors'), [
    { name, type: 'BF16', shape: [32, 16], read: () => undefined },
  ]);
  refused(compressed, /expected plain weights with zeros in place, but .*q_proj\.weight is stored compressed/);
  refused(scratch, /expected .*model\.safetensors or .*index\.json, but neither exists/);
});

/** The first matrix of BIASED, as it is. */
function biasedFirst(): Uint16Array {
  return bf16Of(biased.tensors.get(FIRST)!);
}

function bf16Of({ file, offset, bytes }: { file: string; offset: number; bytes: number }): Uint16Array {
  return new Uint16Array(new Uint8Array(readFileSync(file).subarray(offset, offset + bytes)).buffer);
}
