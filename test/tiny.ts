/** Where the embedded model is, seen from the compiled tests. */
import { fileURLToPath } from 'node:url';

export const TINY = fileURLToPath(new URL('../../models/tiny', import.meta.url));
