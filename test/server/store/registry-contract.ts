/** What every registry must do, whatever it keeps its masks in. Run against each implementation. */
import { afterEach, describe } from 'node:test';
import type { Digest } from '../../../codec/mask-set.js';
import type { Registry } from '../../../server/store/types.js';
import { deltas } from './contract/deltas.js';
import { durability } from './contract/durability.js';
import { preconditions } from './contract/preconditions.js';
import { publishing } from './contract/publishing.js';
import { refusals } from './contract/refusals.js';
import { removal } from './contract/removal.js';
import { shippedMasks } from './contract/shipped.js';
import { versions } from './contract/versions.js';

/** One registry and the state under it. Containers whose last name went away are gone at once, without grace. */
export interface RegistryHarness {
  readonly registry: Registry;
  /** Closes the registry and opens its state again. */
  reopen(): Promise<Registry>;
  /** Changes one byte of a stored container behind the registry's back. */
  damage(digest: Digest): Promise<void>;
  /** Containers that take space, whether a version names them or not, and unfinished uploads. */
  leftovers(): Promise<readonly string[]>;
  destroy(): Promise<void>;
}

export type OpenHarness = (shipped?: Readonly<Record<string, Uint8Array>>) => Promise<RegistryHarness>;

export function registryContract(name: string, openHarness: OpenHarness): void {
  describe(`registry contract: ${name}`, () => {
    const open: RegistryHarness[] = [];
    const start = async (shipped?: Readonly<Record<string, Uint8Array>>): Promise<RegistryHarness> => {
      const harness = await openHarness(shipped);
      open.push(harness);
      return harness;
    };
    afterEach(async () => {
      for (const harness of open.splice(0)) await harness.destroy();
    });
    publishing(start);
    preconditions(start);
    refusals(start);
    versions(start);
    removal(start);
    shippedMasks(start);
    deltas(start);
    durability(start);
  });
}
