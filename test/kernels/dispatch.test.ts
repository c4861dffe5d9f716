import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { native } from '../../kernels/index.js';

const index = new URL('../../kernels/index.js', import.meta.url).href;
const build = fileURLToPath(new URL('../../../kernels/build/', import.meta.url));

function load(isa: string): { status: number | null; stdout: string; stderr: string } {
  const code = `const { native } = await import(${JSON.stringify(index)}); console.log(native.info().isa);`;
  const env = { ...process.env, MASKSERVE_ISA: isa };
  return spawnSync(process.execPath, ['--input-type=module', '-e', code], { env, encoding: 'utf8' });
}

test('MASKSERVE_ISA forces each instruction set that the machine has', () => {
  const { available, isa } = native.info();
  assert.ok(available.includes(isa));
  assert.equal(available.at(-1), 'scalar', 'the baseline always runs');
  for (const name of available) assert.equal(load(name).stdout.trim(), name);
});

test('an instruction set that is unknown or missing fails at load, in one line that lists what is there', () => {
  for (const name of [
    'sse9',
    'AVX2',
    ...(['avx512', 'avx2'] as const).filter((i) => !native.info().available.includes(i)),
  ]) {
    const { status, stderr } = load(name);
    assert.notEqual(status, 0);
    const lines = stderr.split('\n').filter((line) => line.includes('MASKSERVE_ISA'));
    assert.ok(
      lines.some((line) => line.includes(native.info().available.join(',')) && line.includes(`'${name}'`)),
      stderr,
    );
  }
});

test('an empty MASKSERVE_ISA is none', () => {
  assert.equal(load('').stdout.trim(), native.info().available[0]);
});

// A weak symbol (an inline function or a template) may be linked from any object that has it: one compiled for AVX-512 would then run
// on a machine without it. Likewise code that runs when the addon is loaded.
test('objects compiled for one instruction set share no code with the others and run none at load', (t) => {
  const folders = ['avx512', 'avx2', 'scalar'].map((isa) => join(build, isa)).filter(existsSync);
  const tool = spawnSync('nm', ['--version']);
  if (tool.status !== 0) return t.skip('nm is not installed');
  assert.ok(folders.length > 0);
  for (const folder of folders) {
    for (const object of readdirSync(folder).filter((name) => name.endsWith('.o'))) {
      const symbols = spawnSync('nm', ['-C', join(folder, object)], { encoding: 'utf8' }).stdout.split('\n');
      const weak = symbols.filter((line) => /^[0-9a-f]* +[uVvWw] /.test(line));
      assert.deepEqual(weak, [], object);
      const sections = spawnSync('objdump', ['-h', join(folder, object)], { encoding: 'utf8' }).stdout;
      assert.doesNotMatch(sections, /\.init_array|\.ctors/, object);
    }
  }
});
