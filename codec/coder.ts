/** The coders of the format by their id: FORMAT.md §7. */

export type CoderName =
  | 'uniform-ac'
  | 'uniform'
  | 'static'
  | 'parent'
  | 'weights'
  | 'scaled-weights'
  | 'parent+weights'
  | 'patch'
  | 'patch+weights'
  | 'magnitude';

/** Which chunks hold a tensor's symbols: its own arithmetic-coded ones, those of all dense rANS tensors, those of all patches, or none. */
export type Form = 'arithmetic' | 'dense' | 'patch' | 'none';

export interface Coder {
  readonly id: number;
  readonly name: CoderName;
  readonly form: Form;
  readonly needsParent: boolean;
  readonly needsWeights: boolean;
  /** What is coded: symbols, or rank patterns of the group's weights (scaled: FORMAT.md §8.3). */
  readonly codes: 'symbols' | 'ranks' | 'scaled ranks';
}

const coder = (
  id: number,
  name: CoderName,
  form: Form,
  needs: readonly ('parent' | 'weights')[] = [],
  codes: Coder['codes'] = 'symbols',
): Coder => ({
  id,
  name,
  form,
  needsParent: needs.includes('parent'),
  needsWeights: needs.includes('weights'),
  codes,
});

export const CODERS: readonly Coder[] = [
  coder(1, 'uniform-ac', 'arithmetic'),
  coder(2, 'uniform', 'dense'),
  coder(3, 'static', 'dense'),
  coder(4, 'parent', 'dense', ['parent']),
  coder(5, 'weights', 'dense', ['weights'], 'ranks'),
  coder(6, 'scaled-weights', 'dense', ['weights'], 'scaled ranks'),
  coder(7, 'parent+weights', 'dense', ['parent', 'weights'], 'ranks'),
  coder(8, 'patch', 'patch', ['parent']),
  coder(9, 'patch+weights', 'patch', ['parent', 'weights'], 'ranks'),
  coder(10, 'magnitude', 'none', ['weights'], 'ranks'),
];

const BY_ID: ReadonlyMap<number, Coder> = new Map(CODERS.map((one) => [one.id, one]));
const BY_NAME: ReadonlyMap<CoderName, Coder> = new Map(CODERS.map((one) => [one.name, one]));

export function coderById(id: number): Coder | undefined {
  return BY_ID.get(id);
}

export function coderNamed(name: CoderName): Coder {
  return BY_NAME.get(name) as Coder;
}

/** For sentences: `1 (uniform-ac), 2 (uniform), …`. */
export function knownCoders(): string {
  return CODERS.map(({ id, name }) => `${id} (${name})`).join(', ');
}
