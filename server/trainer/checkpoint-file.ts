/** Reading back what writeSafetensors wrote for a run: F32 and U8 tensors and the header's metadata. Every length is checked before it is used. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { native, type Handle } from '../../kernels/index.js';

const ELEMENT_BYTES: Readonly<Record<string, number>> = { F32: 4, U8: 1 };
const HEADER_LIMIT = 100_000_000;
const CHUNK_BYTES = 8 << 20;

interface Entry {
  readonly offset: number;
  readonly bytes: number;
}

/** An open file. Close it. */
export class CheckpointFile {
  readonly metadata: Readonly<Record<string, string>>;
  private readonly entries = new Map<string, Entry>();

  private constructor(
    private readonly path: string,
    private readonly file: number,
  ) {
    const header = this.readHeader();
    const { __metadata__: metadata, ...tensors } = header;
    this.metadata = (metadata ?? {}) as Record<string, string>;
    const dataStart = this.dataStart;
    const { size } = fstatSync(file);
    for (const [name, value] of Object.entries(tensors))
      this.entries.set(name, this.entry(name, value, dataStart, size));
  }

  /** Throws one line on a file that is none, or is cut off. */
  static open(path: string): CheckpointFile {
    const file = openSync(path, 'r');
    try {
      return new CheckpointFile(path, file);
    } catch (error) {
      closeSync(file);
      throw error;
    }
  }

  close(): void {
    closeSync(this.file);
  }

  has(name: string): boolean {
    return this.entries.has(name);
  }

  /** A whole tensor's bytes. */
  bytes(name: string): Uint8Array {
    const { offset, bytes } = this.find(name);
    const into = new Uint8Array(bytes);
    this.readAt(into, offset);
    return into;
  }

  /** Copies a tensor into a native buffer of `bytes` bytes. */
  copyTo(name: string, buffer: Handle, bytes: number): void {
    const entry = this.find(name);
    if (entry.bytes !== bytes) {
      throw new Error(`expected ${name} in ${this.path} to have ${bytes} bytes, but it has ${entry.bytes}`);
    }
    const chunk = new Uint8Array(Math.min(CHUNK_BYTES, bytes));
    for (let done = 0; done < bytes; done += chunk.length) {
      const part = chunk.subarray(0, Math.min(chunk.length, bytes - done));
      this.readAt(part, entry.offset + done);
      native.write(buffer, done, part);
    }
  }

  private dataStart = 0;

  private readHeader(): Record<string, unknown> {
    const length = new Uint8Array(8);
    this.readAt(length, 0);
    const bytes = Number(new DataView(length.buffer).getBigUint64(0, true));
    if (bytes > HEADER_LIMIT) throw this.damaged(`announces a header of ${bytes} bytes`);
    const header = new Uint8Array(bytes);
    this.readAt(header, 8);
    this.dataStart = 8 + bytes;
    try {
      return JSON.parse(new TextDecoder().decode(header)) as Record<string, unknown>;
    } catch (cause) {
      throw this.damaged(`has a header that is not JSON (${(cause as Error).message})`);
    }
  }

  private entry(name: string, value: unknown, dataStart: number, size: number): Entry {
    const { dtype, shape, data_offsets: range } = value as { dtype: string; shape: number[]; data_offsets: number[] };
    const [begin = NaN, end = NaN] = range;
    const bytes = shape.reduce((product, n) => product * n, ELEMENT_BYTES[dtype] ?? NaN);
    if (end - begin !== bytes || dataStart + end > size) throw this.damaged(`has no room for its tensor ${name}`);
    return { offset: dataStart + begin, bytes };
  }

  private find(name: string): Entry {
    const entry = this.entries.get(name);
    if (!entry) throw this.damaged(`has no tensor ${name}`);
    return entry;
  }

  private readAt(into: Uint8Array, offset: number): void {
    for (let done = 0; done < into.length;) {
      const got = readSync(this.file, into, done, into.length - done, offset + done);
      if (got === 0) throw this.damaged('is cut off');
      done += got;
    }
  }

  private damaged(how: string): Error {
    return new Error(`the checkpoint ${this.path} ${how}: it is damaged; start the run anew`);
  }
}
