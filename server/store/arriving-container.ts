/**
 * What the first bytes of an upload show, looked at as they come: a container for other weights, of an unknown parent, or one that is none at all,
 * is refused before the rest of it is sent. What passes is checked whole once it is there (check-container.ts).
 */
import type { ByteSource } from '../../codec/byte-source.js';
import { ContainerReader } from '../../codec/decode.js';
import { CodecError } from '../../codec/errors.js';
import {
  checkFileBytes,
  containerBytes,
  headerBytes,
  MAX_HEADER_BYTES,
  readFixedHeader,
  type FixedHeader,
} from '../../codec/fixed-header.js';
import type { Digest } from '../../codec/mask-set.js';
import { findMisfit, refusalOf, type MaskRules } from './check-container.js';
import { checkedOf } from './container-checker.js';

/** Longer tables are left to the whole check, in its worker thread: reading these delays a token by less than a millisecond. */
const TABLES_AT_MOST = 64 << 10;

export class ArrivingContainer {
  private received = 0;
  /** The bytes until the payload; undefined when they have been looked at. */
  private head: Uint8Array | undefined = new Uint8Array(0);
  private header: FixedHeader | undefined;

  /** @param requireParent throws if the store has no set of this content */
  constructor(
    private readonly rules: MaskRules,
    private readonly requireParent: (content: Digest) => void,
  ) {}

  /** Takes the next bytes. Throws ServerError invalid_mask, wrong_base, and what requireParent throws. */
  take(bytes: Uint8Array): void {
    this.received += bytes.length;
    try {
      this.look(bytes);
    } catch (error) {
      if (error instanceof CodecError) checkedOf(refusalOf(error));
      throw error;
    }
  }

  private look(bytes: Uint8Array): void {
    if (this.head !== undefined) this.lookAtHead((this.head = Buffer.concat([this.head, bytes])));
    if (this.header !== undefined && this.received > containerBytes(this.header)) {
      checkFileBytes(this.header, this.received);
    }
  }

  private lookAtHead(head: Uint8Array): void {
    if (this.header === undefined) {
      if (head.length < MAX_HEADER_BYTES) return;
      this.header = readFixedHeader(head.subarray(0, MAX_HEADER_BYTES), undefined, this.rules.base);
      if (this.header.inherits && this.header.parent !== undefined) this.requireParent(this.header.parent);
    }
    const needed = headerBytes(this.header);
    if (needed <= TABLES_AT_MOST) {
      if (head.length < needed) return;
      this.lookAtTables(head.subarray(0, needed), this.header);
    }
    this.head = undefined;
  }

  private lookAtTables(head: Uint8Array, header: FixedHeader): void {
    const source: ByteSource = {
      byteLength: containerBytes(header),
      read: (offset, length) => head.subarray(offset, offset + length),
    };
    const { summary } = new ContainerReader(source);
    const misfit = findMisfit(summary, this.rules);
    if (misfit !== undefined) checkedOf({ refused: 'invalid_mask', message: misfit });
    if (summary.needs.parent !== undefined) this.requireParent(summary.needs.parent);
  }
}
