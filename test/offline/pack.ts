/**
 * `npm run pack:offline [-- --out FILE]`: one archive for a Linux x64 GPU machine without network: Node's binary (stripped), production modules
 * without sharp, the sources, the compiled TypeScript, models/tiny, and `run-on-gpu.sh`, which builds and measures there. Refuses to leave an
 * archive above 40 MiB.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
export const MOST_BYTES = 40 * 2 ** 20;
/** Pictures of masks are not drawn there; its libraries alone would be 7 MB. */
const LEFT_OUT = /^node_modules\/(sharp|@img)(\/|$)/;
/** Beside test/fixtures, which only tests without a GPU read. */
const SOURCES = [
  'server',
  'codec',
  'kernels',
  'clients',
  'test',
  'models',
  'package.json',
  'tsconfig.json',
  'README.md',
  'LICENSE',
];

interface LockFile {
  readonly packages: Readonly<Record<string, { readonly dev?: boolean; readonly devOptional?: boolean }>>;
}

try {
  const { values } = parseArgs({ options: { out: { type: 'string', default: 'maskserve-offline.tar.xz' } } });
  const out = resolve(values.out);
  const bytes = pack(out);
  console.log(`${out}: ${(bytes / 2 ** 20).toFixed(1)} MiB (at most ${MOST_BYTES / 2 ** 20}); on the GPU machine:`);
  console.log('  tar xf maskserve-offline.tar.xz && maskserve/run-on-gpu.sh');
} catch (error) {
  console.error(`pack:offline: ${(error as Error).message}`);
  process.exitCode = 1;
}

function pack(out: string): number {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new Error(
      `expected to run on Linux x64, whose Node is packed, but this is ${process.platform} ${process.arch}`,
    );
  }
  const scratch = mkdtempSync(join(tmpdir(), 'maskserve-offline-'));
  try {
    const folder = join(scratch, 'maskserve');
    copySources(folder);
    for (const path of productionModules()) copy(path, folder);
    copy('dist', folder);
    addNode(folder);
    cpSync(join(ROOT, 'test/offline/run-on-gpu.sh'), join(folder, 'run-on-gpu.sh'));
    const archive = join(scratch, 'archive.tar.xz');
    run('tar', [
      '--sort=name',
      '--owner=0',
      '--group=0',
      '-C',
      scratch,
      '-I',
      'xz -6 -T0',
      '-cf',
      archive,
      'maskserve',
    ]);
    const bytes = statSync(archive).size;
    if (bytes > MOST_BYTES) throw new Error(`expected at most ${MOST_BYTES} bytes but the archive has ${bytes}`);
    place(archive, out);
    return bytes;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** What git tracks, so that nobody's build output or data travels along. */
function copySources(folder: string): void {
  const listed = run('git', ['-C', ROOT, 'ls-files', '-z', '--', ...SOURCES]).split('\0');
  for (const path of listed) if (path !== '' && !path.startsWith('test/fixtures/')) copy(path, folder);
}

function productionModules(): string[] {
  const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as LockFile;
  return Object.entries(packages)
    .filter(([path, { dev, devOptional }]) => path !== '' && !dev && !devOptional && !LEFT_OUT.test(path))
    .filter(([path]) => statSync(join(ROOT, path), { throwIfNoEntry: false }) !== undefined)
    .map(([path]) => path);
}

function copy(path: string, folder: string): void {
  const to = join(folder, path);
  mkdirSync(dirname(to), { recursive: true });
  cpSync(join(ROOT, path), to, { recursive: true, dereference: true });
}

/** Symbols for debuggers are 12 MB of it. */
function addNode(folder: string): void {
  const node = join(folder, 'bin/node');
  mkdirSync(dirname(node), { recursive: true });
  run('strip', ['-o', node, process.execPath]);
  run(node, ['-e', '0']);
}

function run(command: string, args: readonly string[]): string {
  const done = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 2 ** 26 });
  if (done.error) throw new Error(`expected ${command} on the PATH: ${done.error.message}`);
  if (done.status !== 0) throw new Error(`${command} ${args.join(' ')} failed: ${done.stderr.trim()}`);
  return done.stdout;
}

/** Whole or not at all, also across file systems. */
function place(archive: string, out: string): void {
  const beside = `${out}.part`;
  cpSync(archive, beside);
  renameSync(beside, out);
}
