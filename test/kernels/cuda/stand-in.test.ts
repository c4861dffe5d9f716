/** What a GPU must show (test/gpu), shown without one: by the backend on the host, loaded by the addon as the real one is. */
import { spawnSync } from 'node:child_process';
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { assertNoneSkipped, buildOnHost, noCompiler as skip, ON_HOST, runGpuTests } from './on-host.js';

const folder = fileURLToPath(new URL('../../gpu/', import.meta.url));

test('the backend builds for the host', { skip }, buildOnHost);

test('a thread that gives way has a stream of the lowest priority, others of the highest', { skip }, () => {
  const script = `
    const { native } = await import(${JSON.stringify(new URL('../../../kernels/index.js', import.meta.url).href)});
    native.useBackend('cuda');
    const y = native.alloc(64);
    native.giveWay();
    native.zero(y);
    native.synchronize();
    native.free(y);`;
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    env: { ...process.env, ...ON_HOST, HOST_RUNTIME_TELLS: '1', MASKSERVE_CUDA_OVERLAP: '0' },
    encoding: 'utf8',
  });
  assert.equal(status, 0, stderr);
  assert.deepEqual(stderr.trim().split('\n'), ['host_runtime: priority -5', 'host_runtime: priority 0']);
});

for (const file of readdirSync(folder).filter((name) => name.endsWith('.test.js'))) {
  test(`gpu/${file} passes on the host, none of its tests skipped`, { skip }, () =>
    assertNoneSkipped(runGpuTests(file, ON_HOST)),
  );
}
