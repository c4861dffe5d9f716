/**
 * Loads the native addon: built by `make` in kernels/, found next to the sources whatever the output folder is called. MASKSERVE_ADDON
 * names another file: one built with `make OUT=…`, without replacing what other processes load.
 */
import { createRequire } from 'node:module';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { useFastCoders } from '../codec/fast-coders.js';
import type { NativeAddon } from './types.js';

export * from './backend-types.js';
export * from './codec-types.js';
export * from './handle.js';
export * from './training-types.js';
export * from './types.js';

const built = fileURLToPath(new URL('../../kernels/build/maskserve.node', import.meta.url));
const file = process.env['MASKSERVE_ADDON'] ? resolve(process.env['MASKSERVE_ADDON']) : built;

/** The native ops; the codec's readers use them from here on. Throws one line saying what to do when the addon is missing or does not load. */
export const native: NativeAddon = load();
useFastCoders(native);

function load(): NativeAddon {
  if (!existsSync(file)) {
    throw new Error(`native kernels not built: expected ${file}; run "npm run build" (needs g++ and make)`);
  }
  try {
    return createRequire(import.meta.url)(file) as NativeAddon;
  } catch (cause) {
    throw new Error(`native kernels at ${file} did not load: ${(cause as Error).message}`, { cause });
  }
}
