/** The SDK: `import { MaskServe } from 'maskserve/sdk'`. No dependencies, no Node modules. */
export { MaskServe } from './client.js';
export type { ConnectionOptions } from './connection.js';
export { MaskServeError } from './errors.js';
export type { Masks } from './masks.js';
export type { Training } from './training.js';
export type * from './training-types.js';
export type * from './types.js';
