/** Tests of patches made from containers, whatever the memory that tasks are in. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeMaskSet } from '../../../codec/encode.js';
import { native, NO_BUFFER } from '../../../kernels/index.js';
import { linear } from '../../../server/engine/linear.js';
import { panelTokensByRule } from '../../../server/engine/panel-tokens.js';
import type { TaskWeights } from '../../../server/engine/types.js';
import { frozenWeights } from '../../../server/store/frozen-weights.js';
import type { LoaderFixture } from './loader-fixture.js';
import type { NativeModel } from './native-model.js';
import { childOf, rootMember, type Member } from './sample-deltas.js';
import { randomFrom } from './sample-masks.js';

const TOKENS = 3;
/** More than any patch of these tests takes. */
export const NO_LIMIT = 1 << 20;
export const general = rootMember(1);
export const french = childOf(general, 2);

export async function loadGeneral(fixture: LoaderFixture): Promise<TaskWeights> {
  return fixture.loader.load('general', await fixture.fileOf(general.bytes));
}

/** What the task's patches give, and what a copy of its own gives, to rounding. */
export function assertSameProducts({ maskable }: NativeModel, patched: TaskWeights, copy: TaskWeights): void {
  for (const matrix of maskable) {
    const [a, b] = [patched, copy].map((task) => products(matrix, task)) as [Float32Array, Float32Array];
    const norm = Math.hypot(...b);
    const error = Math.hypot(...a.map((value, i) => value - b[i]!));
    assert.ok(norm > 0 && error <= 1e-5 * norm, `${matrix.name}: ${error} of ${norm}`);
  }
}

export function products(
  { name, rows, cols, weight }: NativeModel['maskable'][number],
  task: TaskWeights,
): Float32Array {
  const random = randomFrom(7);
  const [x, y] = [native.alloc(TOKENS * cols * 4), native.alloc(TOKENS * rows * 4)];
  native.write(
    x,
    0,
    Float32Array.from({ length: TOKENS * cols }, () => random() - 0.5),
  );
  linear(x, [{ y, matrix: { name, rows, cols, weight, bias: NO_BUFFER } }], TOKENS, task, panelTokensByRule);
  const into = new Float32Array(TOKENS * rows);
  native.read(y, 0, into);
  for (const handle of [x, y]) native.free(handle);
  return into;
}

async function assertPatches(fixture: LoaderFixture, member: Member, bytes: Uint8Array): Promise<void> {
  const before = native.usage();
  const parent = await loadGeneral(fixture);
  const source = {
    path: await fixture.fileOf(bytes),
    ancestors: [{ content: general.content, path: await fixture.fileOf(general.bytes) }],
  };
  const owned = native.usage().bytes;
  const patched = await fixture.loader.patch('child', source, { content: general.content, weights: parent }, NO_LIMIT);
  assert.ok(patched?.patches);
  assert.equal(native.usage().bytes - owned, patched.bytes);
  assert.ok(patched.bytes < parent.bytes / 4, `${patched.bytes} of ${parent.bytes}`);
  assert.equal(patched.matrices, parent.matrices);
  const copy = await fixture.loader.load('child', await fixture.fileOf(member.flat));
  assertSameProducts(fixture.model, patched, copy);
  for (const weights of [copy, patched, parent]) fixture.loader.free(weights);
  assert.deepEqual(native.usage(), before);
}

export function patchingCases(fixture: LoaderFixture): void {
  test('a child in a container of its own is patched onto its parent', () =>
    assertPatches(fixture, french, french.flat));

  test('a child that is coded as a patch is patched onto its parent', () =>
    assertPatches(fixture, french, french.bytes));

  for (const coder of ['parent', 'parent+weights', 'patch+weights'] as const) {
    test(`a child that is coded by ${coder} is patched onto its parent`, async () => {
      const context = { parent: general.set, weights: frozenWeights(fixture.model.maskable) };
      await assertPatches(fixture, french, encodeMaskSet(french.set, { context, coder }));
    });
  }

  test('nibbles taken out of a copy make the same copy again', async () => {
    const before = native.usage();
    const first = await loadGeneral(fixture);
    const decoded = await fixture.loader.extract(first);
    const second = await fixture.loader.compact(decoded);
    assert.deepEqual([second.bytes, second.decodeMs], [first.bytes, 0]);
    for (const matrix of fixture.model.maskable) assert.deepEqual(products(matrix, second), products(matrix, first));
    fixture.loader.freeDecoded(decoded);
    for (const weights of [first, second]) fixture.loader.free(weights);
    assert.deepEqual(native.usage(), before);
  });
}
