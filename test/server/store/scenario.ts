/** A life of a store, step by step, with a record of what was acknowledged: for tests that let it fail somewhere and look at what is left. */
import assert from 'node:assert/strict';
import type { Digest } from '../../../codec/mask-set.js';
import type { Registry } from '../../../server/store/types.js';
import { bytesOf, publish } from './registry-calls.js';
import { digestOf, sampleContainer } from './sample-masks.js';

/** Task → its state: digest served, and versions newest first. */
export type State = ReadonlyMap<string, { readonly digest: Digest; readonly versions: readonly Digest[] }>;

export const SCENARIO_SHIPPED = { general: sampleContainer(9) };

const SHIPPED = digestOf(SCENARIO_SHIPPED.general);

interface Step {
  readonly name: string;
  readonly run: (registry: Registry) => Promise<unknown>;
  /** The state that it leads to. */
  readonly after: Readonly<Record<string, readonly [served: number, ...versions: number[]]>>;
}

/** Numbers are the seeds of containers; 9 is the shipped one. */
export const SCENARIO: readonly Step[] = [
  {
    name: 'publish a task',
    run: (registry) => publish(registry, 'french', sampleContainer(1)),
    after: { french: [1, 1], general: [9, 9] },
  },
  {
    name: 'publish a second version',
    run: (registry) => publish(registry, 'french', sampleContainer(2)),
    after: { french: [2, 2, 1], general: [9, 9] },
  },
  {
    name: 'publish the same container under another name',
    run: (registry) => publish(registry, 'francais', sampleContainer(2)),
    after: { french: [2, 2, 1], francais: [2, 2], general: [9, 9] },
  },
  {
    name: 'roll back',
    run: (registry) => registry.rollback('french', {}),
    after: { french: [1, 2, 1], francais: [2, 2], general: [9, 9] },
  },
  {
    name: 'publish over the shipped task',
    run: (registry) => publish(registry, 'general', sampleContainer(3)),
    after: { french: [1, 2, 1], francais: [2, 2], general: [3, 3, 9] },
  },
  {
    name: 'roll back to the shipped mask',
    run: (registry) => registry.rollback('general', {}),
    after: { french: [1, 2, 1], francais: [2, 2], general: [9, 3, 9] },
  },
  {
    name: 'remove a task',
    run: (registry) => registry.remove('french', {}),
    after: { francais: [2, 2], general: [9, 3, 9] },
  },
  {
    name: 'remove the override of the shipped task',
    run: (registry) => registry.remove('general', {}),
    after: { francais: [2, 2], general: [9, 9] },
  },
];

export const INITIAL: State = stateOf({ general: [9, 9] });

export function stateAfter(step: Step): State {
  return stateOf(step.after);
}

export async function readState(registry: Registry): Promise<State> {
  const records = await registry.list();
  return new Map(
    records.map(({ task, digest, versions }) => [
      task,
      { digest, versions: versions.map((version) => version.digest) },
    ]),
  );
}

/** Every version of every task is there, with the bytes of its name. */
export async function assertAllReadable(registry: Registry): Promise<void> {
  assert.equal(registry.quarantined().size, 0, [...registry.quarantined().values()].join());
  for (const { versions } of (await readState(registry)).values()) {
    for (const digest of versions) assert.equal(digestOf(await bytesOf(registry, digest)), digest);
  }
}

/** `actual` is one of `expected`. */
export function assertOneOf(actual: State, expected: readonly State[], what: string): void {
  const printed = [...expected].map(print);
  assert.ok(
    printed.includes(print(actual)),
    `${what}: found\n${print(actual)}\nexpected one of\n${printed.join('\nor\n')}`,
  );
}

function stateOf(tasks: Step['after']): State {
  const digest = (seed: number): Digest => (seed === 9 ? SHIPPED : digestOf(sampleContainer(seed)));
  return new Map(
    Object.entries(tasks).map(([task, [served, ...versions]]) => [
      task,
      { digest: digest(served), versions: versions.map(digest) },
    ]),
  );
}

function print(state: State): string {
  const seeds = new Map([1, 2, 3].map((seed) => [digestOf(sampleContainer(seed)), String(seed)]));
  const short = (digest: Digest): string => (digest === SHIPPED ? 'shipped' : (seeds.get(digest) ?? digest));
  return [...state]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([task, { digest, versions }]) => `${task}: ${short(digest)} of ${versions.map(short).join()}`)
    .join('; ');
}
