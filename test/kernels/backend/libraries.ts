/** Small shared libraries compiled by a test, to stand where the real ones can't be. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';

/** A folder that goes when the test file has ended. */
export function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), 'maskserve-libraries-'));
  after(() => rmSync(folder, { recursive: true }));
  return folder;
}

/** Compiles `source` (a file beside this one) to the shared library `to`. Throws with the compiler's words. */
export function compileLibrary(source: string, to: string, flags: readonly string[] = []): void {
  const path = fileURLToPath(new URL(`../../../../test/kernels/backend/${source}`, import.meta.url));
  const compiler = process.env['CXX'] ?? 'g++';
  const args = ['-std=c++17', '-O1', '-shared', '-fPIC', '-fvisibility=hidden', ...flags, '-o', to, path];
  const run = spawnSync(compiler, args, { encoding: 'utf8' });
  if (run.status !== 0) throw new Error(`${compiler} ${args.join(' ')} failed: ${run.stderr}${run.error ?? ''}`);
}

/** Runs a module's text in a process of its own with `native` imported: backends are looked for once a process. */
export function runWith(env: Readonly<Record<string, string>>, body: string): string {
  const index = new URL('../../../kernels/index.js', import.meta.url).href;
  const code = `const { native, NO_BUFFER } = await import(${JSON.stringify(index)});\n${body}`;
  const run = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
    env: { ...process.env, ...env },
    encoding: 'utf8',
  });
  if (run.status !== 0) throw new Error(`exit ${run.status ?? run.signal}: ${run.stderr}`);
  return run.stdout.trim();
}
