/** What a GPU must show (test/gpu), shown without one: by the backend on the host, loaded by the addon as the real one is. */
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { assertNoneSkipped, buildOnHost, noCompiler as skip, ON_HOST, runGpuTests } from './on-host.js';

const folder = fileURLToPath(new URL('../../gpu/', import.meta.url));

test('the backend builds for the host', { skip }, buildOnHost);

for (const file of readdirSync(folder).filter((name) => name.endsWith('.test.js'))) {
  test(`gpu/${file} passes on the host, none of its tests skipped`, { skip }, () =>
    assertNoneSkipped(runGpuTests(file, ON_HOST)),
  );
}
