/**
 * Runs a test file once for each instruction set this machine has.
 *
 * The set is chosen when the addon is loaded, so a test file re-executes itself: without MASKSERVE_TEST_ISA it registers one test
 * a set, each a child process of the same file with that set forced; with it, the file's own tests.
 */
import { spawnSync } from 'node:child_process';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { native, type Isa } from '../../kernels/index.js';

/** `define` registers the file's tests; call it with the file's `import.meta.url`. */
export function onEveryIsa(fileUrl: string, define: (isa: Isa) => void): void {
  const forced = process.env['MASKSERVE_TEST_ISA'];
  if (forced !== undefined) {
    assert.equal(native.info().isa, forced, 'the child runs the instruction set it was started for');
    define(forced as Isa);
    return;
  }
  for (const isa of native.info().available as readonly Isa[]) {
    test(`on ${isa}`, () => runForced(fileURLToPath(fileUrl), isa));
  }
}

function runForced(file: string, isa: Isa): void {
  const env: NodeJS.ProcessEnv = { ...process.env, MASKSERVE_TEST_ISA: isa, MASKSERVE_ISA: isa };
  delete env['NODE_TEST_CONTEXT']; // the child is a test run of its own, not a part of this one's protocol
  const child = spawnSync(process.execPath, ['--test-reporter=spec', file], { env, encoding: 'utf8' });
  assert.equal(child.status, 0, `tests on ${isa} failed:\n${child.stdout}${child.stderr}`);
  assert.match(child.stdout, /tests [1-9]/, 'the child ran tests');
}
