/** The parity table: every op on every instruction set against the scalar one, and on three threads against one. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { native, type Isa } from '../../kernels/index.js';
import { assertAgree } from './op-cases/op-case.js';
import { unpacked, type ParityRun } from './op-cases/parity-run.js';

const SCRIPT = fileURLToPath(new URL('./op-cases/on-this-isa.js', import.meta.url));

/** Buffers, devices and recordings, which compute nothing; and containers' bytes, whose own tests (codec-*.test.ts) compare instruction sets. */
const ELSEWHERE =
  /^(info|probeCuda|useBackend|memory|synchronize|giveWay|set\w+|alloc\w*|mapFile|view|free|byteLength|read\w*|write|copy|zero|usage|\w+Recording|replay|(en|de)code\w+|countSymbols|applyChanges|findChanges|crc32c|packSymbols|unpackSymbols|magnitudeMask)$/;

function runOn(isa: Isa): ParityRun {
  const env = { ...process.env, MASKSERVE_ISA: isa };
  const child = spawnSync(process.execPath, [SCRIPT], { env, encoding: 'utf8', maxBuffer: 1 << 28 });
  assert.equal(child.status, 0, `on ${isa}: ${child.stderr}`);
  return JSON.parse(child.stdout) as ParityRun;
}

const scalar = runOn('scalar');

test('every op of the table is called', () => {
  const table = native as unknown as Readonly<Record<string, unknown>>;
  const ops = Object.keys(table).filter((name) => typeof table[name] === 'function' && !ELSEWHERE.test(name));
  assert.ok(ops.length > 40, ops.join());
  assert.deepEqual(
    ops.filter((op) => !scalar.called.includes(op)),
    [],
  );
});

for (const isa of native.info().available.filter((name) => name !== 'scalar') as Isa[]) {
  test(`on ${isa} every op gives what it gives without vectors`, (t) => {
    const { cases } = runOn(isa);
    cases.forEach(({ name, agreement, outputs }, at) => {
      const expected = unpacked(scalar.cases[at]!.outputs);
      const error = assertAgree(unpacked(outputs), expected, agreement, `on ${isa} in "${name}"`);
      t.diagnostic(`${isa}: ${agreement === 'bits' ? 'same bits' : error.toExponential(1)}  ${name}`);
    });
  });
}
