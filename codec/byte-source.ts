/** Where a container's bytes come from: memory, or anything that reads ranges. */

export interface ByteSource {
  readonly byteLength: number;
  /** The open file whose bytes these are, for native code that reads it by itself. */
  readonly descriptor?: number;
  /** Exactly `length` bytes from `offset`, which is inside. The result is valid until the next call. */
  read(offset: number, length: number): Uint8Array;
}

export function byteSource(source: Uint8Array | ByteSource): ByteSource {
  if (!(source instanceof Uint8Array)) return source;
  return {
    byteLength: source.length,
    read: (offset, length) => source.subarray(offset, offset + length),
  };
}
