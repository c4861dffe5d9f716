/** Variable-length integers and bytes read one after another: FORMAT.md §1. */
import { CodecError, type CodecErrorCode } from './errors.js';

const MAX_VARINT_BYTES = 5;

/** Reads a section of a file from its start; `section` and `code` say what it is and how running out of it is refused. */
export class SectionReader {
  at = 0;

  constructor(
    readonly bytes: Uint8Array,
    private readonly section: string,
    private readonly code: CodecErrorCode,
  ) {}

  get done(): boolean {
    return this.at === this.bytes.length;
  }

  u8(): number {
    if (this.at >= this.bytes.length) throw this.error('more bytes', `only ${this.bytes.length}`);
    return this.bytes[this.at++]!;
  }

  u32(): number {
    const [a, b, c, d] = this.take(4) as unknown as [number, number, number, number];
    return (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
  }

  take(length: number): Uint8Array {
    if (this.bytes.length - this.at < length) throw this.error('more bytes', `only ${this.bytes.length}`);
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  /** Below 2^32. Throws CodecError `bad-varint`. */
  varint(): number {
    let value = 0;
    for (let i = 0; i < MAX_VARINT_BYTES; i++) {
      const byte = this.u8();
      value += (byte & 0x7f) * 2 ** (7 * i);
      if (byte >= 0x80) continue;
      if ((byte === 0 && i > 0) || value >= 2 ** 32) break;
      return value;
    }
    throw new CodecError(
      'bad-varint',
      `expected an integer below 2^32 in as few bytes as possible in the ${this.section}, got another before byte ${this.at}`,
    );
  }

  /** Throws unless everything was read. */
  end(): void {
    if (!this.done) throw this.error(`${this.at} bytes`, `${this.bytes.length}`);
  }

  error(expected: string, got: string): CodecError {
    return new CodecError(this.code, `expected the ${this.section} to be filled exactly: ${expected}, got ${got}`);
  }
}

/** Collects the bytes of a section. */
export class SectionWriter {
  private readonly bytes: number[] = [];

  u8(value: number): void {
    this.bytes.push(value);
  }

  u32(value: number): void {
    for (let shift = 0; shift < 32; shift += 8) this.bytes.push((value >>> shift) & 0xff);
  }

  varint(value: number): void {
    let rest = value;
    for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) this.bytes.push((rest % 0x80) | 0x80);
    this.bytes.push(rest);
  }

  put(values: Iterable<number>): void {
    for (const value of values) this.bytes.push(value);
  }

  toBytes(): Uint8Array {
    return Uint8Array.from(this.bytes);
  }
}
