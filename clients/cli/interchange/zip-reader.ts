/**
 * Reads ZIP archives (PKWARE APPNOTE 6.3), as far as numpy writes them: stored or deflated entries, ZIP64. What the central directory says
 * counts; every offset and length is checked against the file before it is used, and nothing inflates to more than it announces.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';

export interface ZipEntry {
  readonly name: string;
  /** Bytes once inflated. */
  readonly bytes: number;
  readonly compressedBytes: number;
  readonly method: number;
  readonly crc32: number;
  readonly localHeader: number;
}

const END_BYTES = 22;
const END64_BYTES = 56;
const LOCATOR64_BYTES = 20;
const CENTRAL_BYTES = 46;
const LOCAL_BYTES = 30;
const LARGEST_COMMENT = 0xffff;
/** A directory of more is no archive of masks: 70B models have 560. */
const DIRECTORY_LIMIT = 64 << 20;
const ZIP64_EXTRA = 1;
const IN_ZIP64 = 0xffffffff;
const ENCRYPTED = 1;
const STORED = 0;
const DEFLATED = 8;

/** A member of a gzip file without name and time (RFC 1952 §2.3). */
const GZIP_HEADER = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);

/** An open archive. Throws one line that names the file and its defect. */
export class ZipReader {
  readonly entries: readonly ZipEntry[];
  private readonly file: number;
  private readonly size: number;

  constructor(private readonly path: string) {
    this.file = openSync(path, 'r');
    try {
      this.size = fstatSync(this.file).size;
      this.entries = this.readDirectory();
    } catch (error) {
      closeSync(this.file);
      throw error;
    }
  }

  /** The bytes of an entry, their checksum compared. Throws if it announces more than `limit` bytes, before anything is allocated. */
  read(entry: ZipEntry, limit: number): Buffer {
    const { name, bytes, compressedBytes, method } = entry;
    if (bytes > limit) this.refuse(`expected ${name} to have at most ${limit} bytes, but it has ${bytes}`);
    if (method !== STORED && method !== DEFLATED) {
      this.refuse(`expected ${name} to be stored or deflated, but it is compressed by method ${method}`);
    }
    const data = this.at(this.dataOffset(entry), compressedBytes, name);
    // The stream of a deflated entry is that of a gzip member, whose reader compares checksum and length.
    const stream = method === DEFLATED ? data : storedBlocks(data);
    const trailer = Buffer.alloc(8);
    trailer.writeUInt32LE(entry.crc32);
    trailer.writeUInt32LE(bytes, 4);
    try {
      return gunzipSync(Buffer.concat([GZIP_HEADER, stream, trailer]), { maxOutputLength: Math.max(bytes, 1) });
    } catch (cause) {
      return this.refuse(`${name} is damaged (${(cause as Error).message}); fetch the file again`, cause);
    }
  }

  close(): void {
    closeSync(this.file);
  }

  private readDirectory(): ZipEntry[] {
    const { offset, bytes, count } = this.findDirectory();
    if (bytes > DIRECTORY_LIMIT || count * CENTRAL_BYTES > bytes) {
      this.refuse(`its directory announces ${count} entries in ${bytes} bytes`);
    }
    const directory = this.at(offset, bytes, 'its directory');
    const entries: ZipEntry[] = [];
    for (let at = 0; entries.length < count;) {
      if (at + CENTRAL_BYTES > bytes || directory.readUInt32LE(at) !== 0x02014b50) {
        this.refuse(`entry ${entries.length} of its directory is damaged`);
      }
      const [name, extra, comment] = [28, 30, 32].map((field) => directory.readUInt16LE(at + field)) as [
        number,
        number,
        number,
      ];
      const end = at + CENTRAL_BYTES + name + extra + comment;
      if (end > bytes) this.refuse(`entry ${entries.length} of its directory is damaged`);
      entries.push(this.parseEntry(directory.subarray(at, end), name, extra));
      at = end;
    }
    this.refuseOverlaps(entries, offset);
    return entries;
  }

  /** From the end record, or its ZIP64 twin where a number does not fit. */
  private findDirectory(): { offset: number; bytes: number; count: number } {
    const tail = Math.min(this.size, END_BYTES + LARGEST_COMMENT);
    const start = this.size - tail;
    const end = this.at(start, tail, 'its end');
    let at = tail - END_BYTES;
    while (at >= 0 && !(end.readUInt32LE(at) === 0x06054b50 && at + END_BYTES + end.readUInt16LE(at + 20) === tail))
      at--;
    if (at < 0) this.refuse('expected a ZIP archive (.npz), but it does not end as one: wrong file, or cut short');
    const found = {
      count: end.readUInt16LE(at + 10),
      bytes: end.readUInt32LE(at + 12),
      offset: end.readUInt32LE(at + 16),
    };
    if (found.count !== 0xffff && found.bytes !== IN_ZIP64 && found.offset !== IN_ZIP64) return found;
    const locator = this.at(start + at - LOCATOR64_BYTES, LOCATOR64_BYTES, 'its ZIP64 locator');
    if (locator.readUInt32LE(0) !== 0x07064b50) this.refuse('its ZIP64 locator is missing');
    const end64 = this.at(this.number64(locator, 8), END64_BYTES, 'its ZIP64 end');
    if (end64.readUInt32LE(0) !== 0x06064b50) this.refuse('its ZIP64 end is damaged');
    return { count: this.number64(end64, 32), bytes: this.number64(end64, 40), offset: this.number64(end64, 48) };
  }

  private parseEntry(record: Buffer, nameBytes: number, extraBytes: number): ZipEntry {
    const name = record.toString('utf8', CENTRAL_BYTES, CENTRAL_BYTES + nameBytes);
    if (record.readUInt16LE(8) & ENCRYPTED) this.refuse(`${name} is encrypted`);
    const fields = [24, 20, 42].map((field) => record.readUInt32LE(field)); // in the order that the ZIP64 extra field has them
    const extra = record.subarray(CENTRAL_BYTES + nameBytes, CENTRAL_BYTES + nameBytes + extraBytes);
    const wide = this.zip64Field(extra, name);
    let used = 0;
    const [bytes, compressedBytes, localHeader] = fields.map((value) => {
      if (value !== IN_ZIP64 || wide === undefined) return value;
      if (used + 8 > wide.length) this.refuse(`the ZIP64 field of ${name} is too short`);
      used += 8;
      return this.number64(wide, used - 8);
    }) as [number, number, number];
    return {
      name,
      bytes,
      compressedBytes,
      localHeader,
      method: record.readUInt16LE(10),
      crc32: record.readUInt32LE(16),
    };
  }

  private zip64Field(extra: Buffer, name: string): Buffer | undefined {
    for (let at = 0; at + 4 <= extra.length;) {
      const length = extra.readUInt16LE(at + 2);
      if (at + 4 + length > extra.length) this.refuse(`the extra field of ${name} is damaged`);
      if (extra.readUInt16LE(at) === ZIP64_EXTRA) return extra.subarray(at + 4, at + 4 + length);
      at += 4 + length;
    }
    return undefined;
  }

  /** Entries that share bytes are how a small file pretends to be a large one. */
  private refuseOverlaps(entries: readonly ZipEntry[], directory: number): void {
    const ordered = [...entries].sort((a, b) => a.localHeader - b.localHeader);
    ordered.forEach(({ name, localHeader, compressedBytes }, i) => {
      const next = ordered[i + 1]?.localHeader ?? directory;
      if (localHeader + LOCAL_BYTES + compressedBytes > next) this.refuse(`${name} reaches into what follows it`);
    });
  }

  /** Where the entry's stream begins: only the local header knows. */
  private dataOffset({ name, localHeader }: ZipEntry): number {
    const header = this.at(localHeader, LOCAL_BYTES, `the header of ${name}`);
    if (header.readUInt32LE(0) !== 0x04034b50) this.refuse(`the header of ${name} is damaged`);
    return localHeader + LOCAL_BYTES + header.readUInt16LE(26) + header.readUInt16LE(28);
  }

  private at(offset: number, length: number, what: string): Buffer {
    if (offset < 0 || length < 0 || offset + length > this.size) {
      this.refuse(`${what} lies outside its ${this.size} bytes: cut short or damaged`);
    }
    const bytes = Buffer.alloc(length);
    for (let done = 0; done < length;) {
      const got = readSync(this.file, bytes, done, length - done, offset + done);
      if (got === 0) this.refuse(`it ended while ${what} was read`);
      done += got;
    }
    return bytes;
  }

  private number64(bytes: Buffer, offset: number): number {
    const value = bytes.readBigUInt64LE(offset);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) this.refuse(`it announces ${value} bytes`);
    return Number(value);
  }

  private refuse(defect: string, cause?: unknown): never {
    throw new Error(`${this.path}: ${defect}`, { cause });
  }
}

/** Bytes as a deflate stream of stored blocks (RFC 1951 §3.2.4), each of at most 65535. */
function storedBlocks(data: Buffer): Buffer {
  const blocks: Buffer[] = [];
  for (let at = 0; at === 0 || at < data.length; at += 0xffff) {
    const part = data.subarray(at, at + 0xffff);
    const header = Buffer.alloc(5);
    header.writeUInt8(at + 0xffff >= data.length ? 1 : 0);
    header.writeUInt16LE(part.length, 1);
    header.writeUInt16LE(part.length ^ 0xffff, 3);
    blocks.push(header, part);
  }
  return Buffer.concat(blocks);
}
