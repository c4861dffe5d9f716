/** A residency over loads that a test begins and ends. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { NO_BUFFER } from '../../../kernels/handle.js';
import { createResidency, type CheckedResidency, type ResidencyOptions } from '../../../server/store/residency.js';
import { FakeLoader, fakeRegistry } from './fake-loader.js';
import { BASE } from './sample-masks.js';

/** A matrix whose compacted form takes 900 bytes. */
const MODEL = { base: BASE, maskable: [{ name: 'w', rows: 20, cols: 40, weight: NO_BUFFER }] };
export const COST = 900;

export interface Fixture {
  readonly residency: CheckedResidency;
  readonly loader: FakeLoader;
}

/** Room for `tasks` tasks. */
export function make(tasks: number, options: Partial<ResidencyOptions> & { loader?: FakeLoader } = {}): Fixture {
  const loader = options.loader ?? new FakeLoader(() => COST);
  const registry = fakeRegistry();
  const residency = createResidency({ budgetBytes: tasks * COST, model: MODEL, registry, ...options, loader });
  return { residency, loader };
}

export async function turns(count = 5): Promise<void> {
  for (let i = 0; i < count; i++) await nextTurn();
}

/** Whether a promise has settled by now. */
export async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  const note = (): void => {
    settled = true;
  };
  promise.then(note, note);
  await turns();
  return settled;
}
