import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { contentDigest } from '../../../codec/content-digest.js';
import { decodeMaskSet } from '../../../codec/decode.js';
import { encodeMaskSet } from '../../../codec/encode.js';
import { readMaskSet } from '../../../clients/cli/mask-file.js';
import { shippedSet } from '../../shipped-masks.js';
import { TINY } from '../../tiny.js';
import { BIASED, BIASED_LAYERS, numpyArray, numpyZip } from './interchange/foreign.js';
import { maskctl } from './maskctl.js';
import { randomTinyMask, serveTiny } from './served.js';

const NUMPY_MADE = fileURLToPath(
  new URL('../../../../test/clients/cli/interchange/numpy/mask_compressed.npz', import.meta.url),
);
const folder = mkdtempSync(join(tmpdir(), 'maskctl-import-'));
after(() => rmSync(folder, { recursive: true }));

async function succeed(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await maskctl(args);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' }, args.join(' '));
  return stdout;
}

test('import writes a container for the model, and says what it holds', async () => {
  const out = join(folder, 'numpy.mask');
  const said = JSON.parse(await succeed('import', NUMPY_MADE, '--model', BIASED, '--out', out, '--json')) as Record<
    string,
    unknown
  >;
  const bytes = readFileSync(out);
  const set = readMaskSet(out, { model: BIASED });
  assert.deepEqual(
    set.masks.map(({ name, rows, cols }) => [name, rows, cols]),
    BIASED_LAYERS,
  );
  assert.deepEqual(said, {
    source: NUMPY_MADE,
    format: 'npz',
    file: out,
    task: null,
    digest: createHash('sha256').update(bytes).digest('hex'),
    contentDigest: contentDigest(set),
    parent: null,
    baseDigest: set.base,
    needs: { parent: null, weights: false },
    matrices: 14,
    dense: [],
    groups: 4608,
    completedAtZeros: 0,
    completedByMagnitude: 0,
    parameters: 18432,
    bytes: bytes.length,
    bitsPerParameter: (8 * bytes.length) / 18432,
  });
  assert.match(await succeed('inspect', out, '--model', BIASED), /covers +14 tensors, 18,432 parameters/);
  const people = await succeed('import', NUMPY_MADE, '--model', BIASED, '--out', out);
  assert.match(
    people,
    /^wrote +\S+numpy\.mask\ndigest +[0-9a-f]{64}\nneeds +nothing else\nmatrices +14\ngroups +4,608\nbytes +[\d,]+ \(.*\)\ntry it:\n {2}maskctl push my-task \S+\n$/,
  );
  assert.deepEqual(readdirSync(folder), ['numpy.mask']);
});

test('what export wrote, import makes into the same container again', async () => {
  const shipped = shippedSet('general');
  const [npz, dense] = [join(folder, 'general.npz'), join(folder, 'general-dense')];
  await succeed('export', '--format', 'npz', '--task', 'general', '--out', npz);
  await succeed('export', '--format', 'dense', '--mask', join(TINY, 'masks', 'general.mask'), '--out', dense);
  for (const source of [npz, dense]) {
    const out = join(folder, 'again.mask');
    await succeed('import', source, '--out', out);
    assert.deepEqual(readMaskSet(out), shipped, source);
  }
});

test('--from records the parent, a file or a task of the model, and codes against it unless --flat', async () => {
  const general = shippedSet('general');
  const npz = join(folder, 'general.npz');
  for (const from of ['general', join(TINY, 'masks', 'general.mask')]) {
    const out = join(folder, 'child.mask');
    const said = JSON.parse(await succeed('import', npz, '--from', from, '--out', out, '--json')) as { parent: string };
    assert.equal(said.parent, contentDigest(general));
    assert.match(await succeed('inspect', out), new RegExp(`parent +${said.parent}`));
    assert.ok(statSync(out).size < 1000, 'nothing changed');
    const flat = await succeed('import', npz, '--from', from, '--flat', '--out', out);
    assert.match(flat, /^needs +nothing else$/m);
    const { parent, masks } = decodeMaskSet(readFileSync(out));
    assert.deepEqual([parent, masks], [said.parent, general.masks]);
  }
});

test('--task publishes it to the server, which serves it', async () => {
  const server = await serveTiny();
  try {
    const args = ['import', join(folder, 'general.npz'), '--task', 'imported', '--server', server.url];
    const { code, stdout, stderr } = await maskctl(args);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    assert.match(stdout, /^published +imported at http.*\n[^]*try it:\n {2}curl .*X-Task: imported/);
    assert.match(
      await succeed('complete', 'The', '--task', 'imported', '--max-tokens', '4', '--server', server.url),
      /./,
    );
    const foreign = await maskctl([
      'import',
      NUMPY_MADE,
      '--model',
      BIASED,
      '--task',
      'foreign',
      '--server',
      server.url,
    ]);
    assert.equal(foreign.code, 1);
    assert.match(foreign.stderr, /expected --model to be the directory that .* serves/);
  } finally {
    await server.close();
  }
});

test('what can not be imported is refused with one line, and nothing is written', async () => {
  const out = ['--out', join(folder, 'never.mask')];
  const empty = join(folder, 'empty');
  mkdirSync(empty);
  const short = join(folder, 'short.npz');
  const [name] = BIASED_LAYERS[0]!;
  writeFileSync(
    short,
    numpyZip([{ name: `${name}.mask.npy`, bytes: numpyArray("'|u1'", [128], Buffer.alloc(128, 0x4c)) }]),
  );
  const pickle = join(folder, 'masks.pt');
  writeFileSync(pickle, Buffer.from([0x80, 2, 0x7d]));
  const foreign = join(folder, 'foreign.mask');
  writeFileSync(foreign, encodeMaskSet({ ...randomTinyMask(1), base: '00'.repeat(32) }));
  const cases: [string[], number, RegExp][] = [
    [['import', NUMPY_MADE], 2, /expected --out FILE or --task NAME: where should the mask go\?/],
    [['import', ...out], 2, /missing required argument 'source'/],
    [
      ['import', NUMPY_MADE, '--out', join(folder, 'no', 'x.mask')],
      2,
      /expected a directory at .*no to write x\.mask into/,
    ],
    [
      ['import', join(folder, 'no.npz'), ...out],
      1,
      /expected an \.npz file or a model directory at .*no\.npz, but there is none/,
    ],
    [
      ['import', NUMPY_MADE, ...out],
      1,
      /expected 8192 bytes of numpy\.packbits, or 65536 booleans, for its shape 256x256, but it has 128 bytes/,
    ],
    [['import', empty, ...out], 1, /empty.model\.safetensors or .*, but neither exists/],
    [['import', NUMPY_MADE, '--model', empty, ...out], 1, /config\.json/],
    [
      ['import', NUMPY_MADE, '--model', join(folder, 'no'), ...out],
      1,
      /expected a model directory at .*no, but there is none; check --model/,
    ],
    [
      ['import', join(TINY, 'model.safetensors'), ...out],
      2,
      /expected the directory of a pruned model, .*, but received the file/,
    ],
    [
      ['import', pickle, ...out],
      1,
      /masks\.pt: expected an \.npz, but this is a file of torch\.save: .*numpy\.packbits/,
    ],
    [['import', TINY, ...out], 1, /all are those of .*tiny: nothing is pruned/],
    [
      ['import', short, '--model', BIASED, ...out],
      1,
      /short\.npz: \d+ of 256 groups keep fewer than 2 .* --complete magnitude/,
    ],
    [
      ['import', short, '--model', BIASED, '--complete', 'all', ...out],
      2,
      /'all' is invalid\. Allowed choices are magnitude/,
    ],
    [['import', NUMPY_MADE, '--task', 'dense'], 1, /"dense" is reserved/],
    [
      ['import', join(folder, 'general.npz'), '--from', 'nobody', ...out],
      1,
      /expected a mask file, or a task that comes with .* \(.*general.*\), but received nobody/,
    ],
    [
      ['import', join(folder, 'general.npz'), '--from', foreign, ...out],
      1,
      /foreign\.mask: expected a mask set for the base weights/,
    ],
  ];
  for (const [args, expectedCode, message] of cases) {
    const { code, stdout, stderr } = await maskctl(args);
    const which = args.join(' ');
    assert.match(stderr, message, which);
    assert.equal(code, expectedCode, which);
    assert.equal(stdout, '', which);
    assert.equal(stderr.trimEnd().split('\n').length, 1, stderr);
  }
  assert.ok(!readdirSync(folder).some((file) => /never|\.part/.test(file)));
});
