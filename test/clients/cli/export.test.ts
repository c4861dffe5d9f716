import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { openBase } from '../../../clients/cli/interchange/base-model.js';
import { contentDigest } from '../../../codec/content-digest.js';
import { encodeMaskSet } from '../../../codec/encode.js';
import { loadModel } from '../../../server/engine/model.js';
import { shippedSet } from '../../shipped-masks.js';
import { TINY } from '../../tiny.js';
import { BIASED, unzip } from './interchange/foreign.js';
import { emptyPast, openSession, run } from './interchange/onnx-session.js';
import { maskctl } from './maskctl.js';
import { randomTinyMask } from './served.js';

const GENERAL = join(TINY, 'masks', 'general.mask');
const KEPT_BITS = [0b1100, 0b1010, 0b1001, 0b0110, 0b0101, 0b0011];

const folder = mkdtempSync(join(tmpdir(), 'maskctl-export-'));
after(() => rmSync(folder, { recursive: true }));

async function exported(...args: string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await maskctl(['export', ...args, '--json']);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' }, args.join(' '));
  return JSON.parse(stdout) as Record<string, unknown>;
}

function sizeOf(directory: string): number {
  return readdirSync(directory).reduce((sum, name) => sum + statSync(join(directory, name)).size, 0);
}

test('npz holds packed bits under the parameter names, as numpy.savez_compressed writes them', async () => {
  const out = join(folder, 'mask_compressed.npz');
  const said = await exported('--format', 'npz', '--task', 'general', '--out', out);
  const general = readFileSync(GENERAL);
  const set = shippedSet('general');
  assert.deepEqual(said, {
    format: 'npz',
    out,
    bytes: statSync(out).size,
    mask: createHash('sha256').update(general).digest('hex'),
    contentDigest: contentDigest(set),
    baseDigest: set.base,
    matrices: 42,
  });
  const entries = unzip(readFileSync(out));
  assert.deepEqual(
    [...entries.keys()],
    set.masks.map(({ name }) => `${name}.mask.npy`),
  );
  for (const { name, symbols } of set.masks) {
    const npy = entries.get(`${name}.mask.npy`)!;
    assert.equal(npy.toString('latin1', 0, 8), '\x93NUMPY\x01\x00');
    assert.equal(npy.readUInt16LE(8) + 10, 128);
    assert.equal(
      npy.toString('latin1', 10, 128),
      `{'descr': '|u1', 'fortran_order': False, 'shape': (${symbols.length / 2},), }`.padEnd(117) + '\n',
    );
    const expected = Uint8Array.from({ length: symbols.length / 2 }, (_, i) => {
      return (KEPT_BITS[symbols[2 * i]!]! << 4) | KEPT_BITS[symbols[2 * i + 1]!]!;
    });
    assert.deepEqual(new Uint8Array(npy.subarray(128)), expected, name);
  }
});

test('dense and bitmask are model directories without what belongs to the original alone', async () => {
  const dense = join(folder, 'dense');
  const said = await exported('--format', 'dense', '--mask', GENERAL, '--out', dense);
  assert.equal(said['bytes'], sizeOf(dense));
  const files = [
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'tokenizer.json',
    'tokenizer_config.json',
  ];
  assert.deepEqual(readdirSync(dense).sort(), files);
  const model = loadModel(dense, { threads: 1 });
  assert.notEqual(model.info.base, said['baseDigest']);
  model.dispose();
  const bitmask = join(folder, 'bitmask');
  mkdirSync(bitmask); // an empty directory is as good as none
  const smaller = await exported('--format', 'bitmask', '--task', 'general', '--out', bitmask);
  assert.deepEqual(readdirSync(bitmask).sort(), files);
  // Of a masked bf16 weight 2 bytes become 1 and a bit.
  assert.ok((smaller['bytes'] as number) < (said['bytes'] as number) - 0.87 * 4_423_680 + 10_000);
});

test('onnx is the dense model or a masked one, with a cache or without', async () => {
  const dense = join(folder, 'dense-onnx');
  const said = await exported('--format', 'onnx', '--out', dense);
  assert.deepEqual([said['mask'], said['contentDigest'], said['matrices']], [null, null, 0]);
  assert.equal(said['bytes'], sizeOf(dense));
  assert.ok(
    ['config.json', 'model.onnx', 'model.onnx_data', 'tokenizer.json'].every((name) => existsSync(join(dense, name))),
  );
  const masked = join(folder, 'masked-onnx');
  await exported('--format', 'onnx', '--task', 'general', '--no-cache', '--logits', 'last', '--out', masked);
  const [one, two] = [await openSession(dense), await openSession(masked)];
  assert.equal(one.inputNames.length, 1 + 2 * 6);
  assert.deepEqual([...two.inputNames, ...two.outputNames], ['input_ids', 'logits']);
  const a = await run(one, [[5, 6, 7]], emptyPast(openBase(TINY).config));
  const b = await run(two, [[5, 6, 7]], {});
  assert.deepEqual(
    [a.dims, b.dims],
    [
      [1, 3, 4096],
      [1, 1, 4096],
    ],
  );
  assert.notDeepEqual(a.logits.subarray(2 * 4096), b.logits);
  await Promise.all([one.release(), two.release()]);
});

test('people are told what was written', async () => {
  const { stdout } = await maskctl(['export', '--format', 'onnx', '--model', BIASED, '--out', join(folder, 'biased')]);
  assert.match(stdout, /^wrote +\S+biased\nformat +onnx\nbytes +[\d,]+\nmask +none \(dense\)\nbase +[0-9a-f]{64}\n$/);
});

test('what a killed export left behind is removed by the next one, what a running one writes is not', async () => {
  const gone = spawnSync(process.execPath, ['--version']).pid;
  const [left, running] = [gone, process.pid].map((pid) => join(folder, `.retried.${pid}.part`)) as [string, string];
  for (const directory of [left, running]) {
    mkdirSync(directory);
    writeFileSync(join(directory, 'model.onnx_data'), 'half');
  }
  await exported('--format', 'onnx', '--model', BIASED, '--out', join(folder, 'retried'));
  assert.deepEqual([existsSync(left), existsSync(running)], [false, true]);
  rmSync(running, { recursive: true });
});

test('what can not be exported is refused with one line, and nothing is written', async () => {
  const foreign = join(folder, 'foreign.mask');
  writeFileSync(foreign, encodeMaskSet({ ...randomTinyMask(1), base: '00'.repeat(32) }));
  const octets = join(folder, '4-8.mask');
  const set = randomTinyMask(2);
  const masks = set.masks.map((mask) => ({ ...mask, symbols: new Uint8Array(mask.symbols.length / 2) }));
  writeFileSync(octets, encodeMaskSet({ ...set, n: 4, m: 8, masks }));
  const stranger = join(folder, 'stranger.mask');
  writeFileSync(stranger, encodeMaskSet({ ...set, masks: [{ ...set.masks[0]!, name: 'lm_head.weight' }] }));
  const damaged = join(folder, 'damaged.mask');
  const bytes = readFileSync(GENERAL);
  bytes[bytes.length - 5000]! ^= 1;
  writeFileSync(damaged, bytes);
  const out = ['--out', join(folder, 'never')];
  const cases: [string[], number, RegExp][] = [
    [['--task', 'general', ...out], 2, /required option '--format <format>' not specified/],
    [['--format', 'npz', '--task', 'general'], 2, /required option '-o, --out <path>' not specified/],
    [['--format', 'pt', ...out], 2, /'pt' is invalid\. Allowed choices are npz, dense, bitmask, onnx/],
    [['--format', 'npz', ...out], 2, /expected --task NAME or --mask FILE: npz is of a mask/],
    [['--format', 'dense', '--task', 'dense', ...out], 2, /expected --task NAME or --mask FILE/],
    [['--format', 'npz', '--task', 'general', '--mask', GENERAL, ...out], 2, /--task or --mask, but received both/],
    [['--format', 'npz', '--task', 'general', '--out', folder], 2, /expected a file name but received the directory/],
    [
      ['--format', 'onnx', '--out', folder],
      2,
      /expected --out to be a directory that is not there yet, or empty, but received/,
    ],
    [['--format', 'onnx', '--out', join(folder, 'no', 'x')], 2, /expected a directory at .*no to make x in/],
    [
      ['--format', 'dense', '--task', 'nobody', ...out],
      1,
      /expected a mask file, or a task that comes with .* \(.*general.*\), but received nobody; "maskctl pull nobody"/,
    ],
    [
      ['--format', 'dense', '--mask', join(folder, 'no.mask'), ...out],
      1,
      /expected a file at .*no\.mask, but there is none/,
    ],
    [
      ['--format', 'dense', '--mask', foreign, ...out],
      1,
      /foreign\.mask: expected a mask set for the base weights [0-9a-f]{64}, got one for 0{64}: .*--model/,
    ],
    [['--format', 'npz', '--mask', octets, ...out], 1, /4-8\.mask: expected 2:4 masks, but they are 4:8/],
    [
      ['--format', 'onnx', '--mask', stranger, ...out],
      1,
      /expected only masks for the linear layers of .*, but lm_head\.weight is 256x256 there and none in the model/,
    ],
    [['--format', 'dense', '--mask', damaged, ...out], 1, /damaged\.mask: .*checksum/],
    [['--format', 'npz', '--mask', damaged, ...out], 1, /damaged\.mask: .*checksum/],
    [['--format', 'onnx', '--model', folder, ...out], 1, /config\.json/],
  ];
  const outcomes = await Promise.all(cases.map(([args]) => maskctl(['export', ...args])));
  outcomes.forEach(({ code, stdout, stderr }, index) => {
    const [args, expectedCode, message] = cases[index]!;
    const which = args.join(' ');
    assert.match(stderr, message, which);
    assert.equal(code, expectedCode, which);
    assert.equal(stdout, '', which);
    assert.equal(stderr.trimEnd().split('\n').length, 1, stderr);
  });
  assert.deepEqual(
    readdirSync(folder).filter((name) => /never|\.part$/.test(name)),
    [],
  );
});
