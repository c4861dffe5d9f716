/** Masks that need their parent and their model's weights, on the command line: where both are looked for, and what is said when one is missing. */
import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readMaskSet } from '../../../clients/cli/mask-file.js';
import { contentDigest } from '../../../codec/content-digest.js';
import { encodeMaskSet } from '../../../codec/encode.js';
import type { MaskSet } from '../../../codec/mask-set.js';
import { shippedSet, tinyWeights } from '../../shipped-masks.js';
import { TINY } from '../../tiny.js';
import { BIASED } from './interchange/foreign.js';
import { maskctl } from './maskctl.js';
import { randomTinyMask } from './served.js';

const folder = mkdtempSync(join(tmpdir(), 'maskctl-family-'));
after(() => rmSync(folder, { recursive: true }));
const TEXT = fileURLToPath(new URL('../../../../node_modules/commander/Readme.md', import.meta.url));

/** A root that does not come with the model, its child and its grandchild, each in a folder of its own. */
const root = shippedSet('general').masks.slice(0, 2);
const base: MaskSet = { ...randomTinyMask(3), masks: root };
const child = changed(base, 50);
const grandchild = changed(child, 70);
const [rootFile, childFile, grandchildFile] = [
  saved('a', 'root.mask', encodeMaskSet(base)),
  saved(
    'b',
    'child.mask',
    encodeMaskSet(child, { context: { parent: base, weights: tinyWeights }, coder: 'patch+weights' }),
  ),
  saved('c', 'grandchild.mask', encodeMaskSet(grandchild, { context: { parent: child }, coder: 'patch' })),
];

/** Every `step`th group keeps another pair. */
function changed(parent: MaskSet, step: number): MaskSet {
  const masks = parent.masks.map((mask) => ({
    ...mask,
    symbols: mask.symbols.map((symbol, i) => (i % step === 0 ? (symbol + 1) % 6 : symbol)),
  }));
  return { ...parent, parent: contentDigest(parent), masks };
}

function saved(directory: string, name: string, bytes: Uint8Array): string {
  mkdirSync(join(folder, directory), { recursive: true });
  writeFileSync(join(folder, directory, name), bytes);
  return join(folder, directory, name);
}

interface Inspected {
  readonly needs: { readonly parent: string | null; readonly weights: boolean };
  readonly coder: string;
  readonly parentFile: string | null;
  readonly decoded: boolean;
  readonly lacks: string | null;
  readonly changedGroups: number | null;
  readonly bytes: number;
  readonly bitsPerParameter: number;
  readonly parameters: number;
  readonly tensors: readonly { readonly name: string; readonly changedGroups: number | null }[];
}

async function inspect(...args: string[]): Promise<Inspected> {
  const { code, stdout, stderr } = await maskctl(['inspect', ...args, '--json']);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' }, args.join(' '));
  return JSON.parse(stdout) as Inspected;
}

const groups = base.masks.map(({ symbols }) => Math.ceil(symbols.length / 50));

test('inspect counts the changed groups beside the parent that --parent names, and says what the file needs', async () => {
  const said = await inspect(childFile, '--parent', rootFile);
  assert.deepEqual(said.needs, { parent: contentDigest(base), weights: true });
  assert.deepEqual([said.coder, said.parentFile, said.decoded, said.lacks], ['patch+weights', rootFile, true, null]);
  assert.deepEqual(
    said.tensors.map(({ changedGroups }) => changedGroups),
    groups,
  );
  assert.equal(said.changedGroups, groups[0]! + groups[1]!);
  assert.equal(said.bitsPerParameter, (8 * said.bytes) / said.parameters);
  const { stdout } = await maskctl(['inspect', childFile, '--parent', rootFile]);
  assert.match(stdout, /^needs +its parent root [0-9a-f]{12} and the weights of its model$/m);
  assert.match(stdout, /^changed +[\d,]+ of [\d,]+ groups \(2\.0\d%\)$/m);
});

test('the parent is found beside the file, and in the masks/ of its model', async () => {
  const copy = saved('a', 'child.mask', readFileSync(childFile));
  assert.equal((await inspect(copy)).parentFile, rootFile);
  rmSync(copy);
  const french = saved('b', 'french.mask', readFileSync(join(TINY, 'masks', 'french.mask')));
  const said = await inspect(french);
  assert.equal(said.decoded, true);
  assert.equal(said.parentFile === null, said.needs.parent === null);
});

test('a flat child of a parent at hand is compared with it as well', async () => {
  const flat = saved('a', 'flat.mask', encodeMaskSet(child));
  const said = await inspect(flat);
  assert.deepEqual(said.needs, { parent: null, weights: false });
  assert.deepEqual([said.parentFile, said.changedGroups], [rootFile, groups[0]! + groups[1]!]);
  rmSync(flat);
});

test('a chain is followed through the folder of the parent that is named', () => {
  copyFileSync(rootFile, join(folder, 'b', 'root.mask'));
  assert.deepEqual(readMaskSet(grandchildFile, { parent: childFile }), grandchild);
  rmSync(join(folder, 'b', 'root.mask'));
});

test('without parent or weights inspect compares checksums, and says what is missing, where it looked and what to do', async () => {
  const orphan = await inspect(childFile);
  assert.deepEqual([orphan.decoded, orphan.parentFile, orphan.changedGroups, orphan.tensors], [false, null, null, []]);
  assert.match(
    orphan.lacks ?? '',
    new RegExp(
      `expected its parent, .* content digest ${contentDigest(base)}, in .*b or .*tiny/masks, .*--parent.*--flatten`,
    ),
  );
  const elsewhere = await inspect(childFile, '--parent', rootFile, '--model', BIASED);
  assert.equal(elsewhere.decoded, false);
  assert.match(
    elsewhere.lacks ?? '',
    new RegExp(
      `expected the frozen weights of the base ${base.base}, but looked at .*llama-bias, whose base is [0-9a-f]{64}: .*--model`,
    ),
  );
  const damaged = readFileSync(childFile);
  damaged[damaged.length - 3]! ^= 1;
  const { code, stderr } = await maskctl(['inspect', saved('d', 'damaged.mask', damaged)]);
  assert.equal(code, 1);
  assert.match(stderr, /damaged\.mask: chunk 0 differs from its checksum/);
});

test('whatever reads masks reads them beside --parent, and else says in one line what is missing', async () => {
  const commands: string[][] = [
    ['diff', rootFile, childFile],
    ['eval', '--local', '--mask', childFile, '--data', TEXT, '--windows', '1', '--threads', '1'],
    ['sensitivity', '--mask', childFile, '--data', TEXT, '--windows', '1', '--threads', '1'],
    ['export', '--format', 'npz', '--mask', childFile, '--out', join(folder, 'child.npz')],
  ];
  for (const command of commands) {
    const alone = await maskctl(command);
    assert.deepEqual([alone.code, alone.stdout], [1, ''], command.join(' '));
    assert.match(alone.stderr, /^maskctl: .*child\.mask: expected its parent, [^\n]*--parent[^\n]*\n$/);
    const { code, stderr } = await maskctl([...command, '--parent', rootFile]);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' }, command.join(' '));
  }
});

test('a --parent that is no mask file is refused by its name', async () => {
  const { code, stderr } = await maskctl(['diff', rootFile, childFile, '--parent', TEXT]);
  assert.equal(code, 1);
  assert.match(stderr, /^maskctl: .*Readme\.md: expected a mask container.*\n$/);
});
