/** Takes a container apart at the offsets of FORMAT.md and puts changed parts together with valid checksums. For tests only. */
import { crc32c } from '../../codec/crc32c.js';

export const FIXED_HEADER = 144;

export interface ContainerParts {
  /** 144 bytes */
  header: Uint8Array;
  table: Uint8Array;
  index: Uint8Array;
  payload: Uint8Array;
}

/** Copies of the parts of a valid container. */
export function takeApart(container: Uint8Array): ContainerParts {
  const bytes = Uint8Array.from(container);
  const table = FIXED_HEADER + u32(bytes, 20);
  const index = table + 8 * u32(bytes, 24);
  return {
    header: bytes.slice(0, FIXED_HEADER),
    table: bytes.slice(FIXED_HEADER, table),
    index: bytes.slice(table, index),
    payload: bytes.slice(index),
  };
}

/** The parts in a row, as they are. */
export function join({ header, table, index, payload }: ContainerParts): Uint8Array {
  return new Uint8Array(Buffer.concat([header, table, index, payload]));
}

/** The parts in a row, with the two checksums of the header made right. */
export function seal(parts: ContainerParts): Uint8Array {
  setU32(parts.header, 136, crc32c(parts.index, crc32c(parts.table)));
  setU32(parts.header, 140, crc32c(parts.header.subarray(0, 140)));
  return join(parts);
}

/** Another tensor table, and its length in the header. */
export function setTable(parts: ContainerParts, table: Uint8Array): void {
  parts.table = table;
  setU32(parts.header, 20, table.length);
}

/** Another chunk index, and its length in the header. */
export function setIndex(parts: ContainerParts, index: Uint8Array): void {
  parts.index = index;
  setU32(parts.header, 24, index.length / 8);
}

/** Another payload, and its length in the header. */
export function setPayload(parts: ContainerParts, payload: Uint8Array): void {
  parts.payload = payload;
  setU32(parts.header, 32, payload.length);
}

/** Makes the checksums of all chunks right; lengths are taken from the index. */
export function sealChunks({ index, payload }: ContainerParts): void {
  let at = 0;
  for (let entry = 0; entry + 8 <= index.length; entry += 8) {
    const length = u32(index, entry);
    setU32(index, entry + 4, crc32c(payload.subarray(at, at + length)));
    at += length;
  }
}

export function u32(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true);
}

export function setU32(bytes: Uint8Array, at: number, value: number): void {
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(at, value, true);
}
