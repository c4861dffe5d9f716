/** How TypeScript names a native buffer, and the element types that ops take. */

/** A native buffer. 0 is never valid; where an op takes an optional buffer, 0 means "none". */
export type Handle = number & { readonly __handle: unique symbol };

export const NO_BUFFER = 0 as Handle;

/** Element types of a weight file. Everything but bf16 is converted once when a model is loaded. */
export type DType = 'bf16' | 'f16' | 'f32';

/** What keys and values are held as. A GPU backend takes f32 only. */
export type KvType = 'bf16' | 'f32';
