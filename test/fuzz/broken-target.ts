/** Targets that break one promise each, chosen by the module's query: the fuzzer must notice every one. */
import type { FuzzTarget } from './target.js';

const hoard: Uint8Array[] = [];

const DEFECTS: Readonly<Record<string, () => string>> = {
  none: () => 'accepted',
  throws: () => {
    throw new TypeError('undefined is not a function');
  },
  hangs: () => {
    for (;;);
  },
  crashes: () => process.exit(3),
  hoards: () => {
    hoard.push(new Uint8Array(2 ** 18).fill(1));
    return 'accepted';
  },
};

export function makeTarget(): Promise<FuzzTarget> {
  const defect = new URL(import.meta.url).searchParams.get('defect') ?? 'none';
  return Promise.resolve({ run: DEFECTS[defect]!, close: () => Promise.resolve() });
}
