/** A store in a folder of its own that goes away with the test. */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Digest } from '../../../codec/mask-set.js';
import { openDiskRegistry, type DiskRegistryOptions } from '../../../server/store/disk-registry.js';
import { checkContainerFile, flattenContainerFile } from '../../../server/store/check-container.js';
import { checkedOf, rulesOf, type ContainerChecker } from '../../../server/store/container-checker.js';
import type { Registry } from '../../../server/store/types.js';
import type { RegistryHarness } from './registry-contract.js';
import { BASE, sampleModel } from './sample-masks.js';

export interface TemporaryStore extends RegistryHarness {
  readonly directory: string;
  /** Folder of the sample model's base. */
  readonly root: string;
  /** Lines logged by all registries opened on it. */
  readonly lines: string[];
  readonly options: DiskRegistryOptions;
}

/** An empty folder and the options that open a registry in it. */
export async function temporaryFolder(): Promise<string> {
  return mkdtemp(join(tmpdir(), 'maskserve-store-'));
}

export async function openTemporaryStore(
  shipped: Readonly<Record<string, Uint8Array>> = {},
  options: Partial<DiskRegistryOptions> = {},
): Promise<TemporaryStore> {
  const folder = await temporaryFolder();
  const shippedDirectory = join(folder, 'masks');
  await mkdir(shippedDirectory);
  for (const [task, bytes] of Object.entries(shipped)) await writeFile(join(shippedDirectory, `${task}.mask`), bytes);
  const directory = join(folder, 'store');
  const root = join(directory, BASE);
  const lines: string[] = [];
  const log = { info: (line: string) => lines.push(line), warn: (line: string) => lines.push(line) };
  const all = { directory, shippedDirectory, model: sampleModel(), graceMs: 0, log, ...options };
  let registry: Registry = await openDiskRegistry(all);
  return {
    registry,
    directory,
    root,
    lines,
    options: all,
    reopen: async () => {
      await registry.close();
      registry = await openDiskRegistry(all);
      return registry;
    },
    damage: (digest) => flipByte(join(root, 'blobs', `${digest}.mask`)),
    leftovers: () => filesIn(root, ['tmp', 'blobs', 'quarantine']),
    destroy: async () => {
      await registry.close();
      await rm(folder, { recursive: true });
    },
  };
}

/** Checks containers with the registry's own rules, without starting a thread: for tests that open stores by the hundred. */
export const inlineChecker: ContainerChecker = {
  check: async (path, depth, ancestors) =>
    checkedOf(checkContainerFile(path, rulesOf(sampleModel()), depth, ancestors)),
  flatten: async (path, ancestors) => flattenContainerFile(path, rulesOf(sampleModel()), ancestors),
  close: async () => undefined,
};

export async function flipByte(path: string): Promise<void> {
  const bytes = await readFile(path);
  bytes[bytes.length >> 1]! ^= 0x10;
  await writeFile(path, bytes);
}

export function blobPath(root: string, digest: Digest): string {
  return join(root, 'blobs', `${digest}.mask`);
}

export async function filesIn(root: string, folders: readonly string[]): Promise<string[]> {
  const names = await Promise.all(
    folders.map(async (folder) => (await readdir(join(root, folder))).map((name) => join(folder, name))),
  );
  return names.flat().sort();
}
