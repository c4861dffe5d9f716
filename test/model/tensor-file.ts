/** Values of the tensors of a safetensors file, whatever their element type: for comparison with other implementations' dumps. */
import { readFileSync } from 'node:fs';

export class TensorFile {
  private readonly bytes: Buffer;
  private readonly dataStart: number;
  private readonly header: Readonly<Record<string, { readonly data_offsets: readonly [number, number] } | undefined>>;

  constructor(private readonly file: string) {
    this.bytes = readFileSync(file);
    this.dataStart = 8 + Number(this.bytes.readBigUInt64LE());
    this.header = JSON.parse(this.bytes.toString('utf8', 8, this.dataStart)) as typeof this.header;
  }

  floats(name: string): Float32Array {
    return new Float32Array(this.copy(name));
  }

  /** An I64 tensor of small values. */
  integers(name: string): Int32Array {
    return Int32Array.from(new BigInt64Array(this.copy(name)), Number);
  }

  private copy(name: string): ArrayBuffer {
    const entry = this.header[name];
    if (!entry) throw new Error(`expected a tensor ${name} in ${this.file}`);
    const [begin, end] = entry.data_offsets;
    return Uint8Array.from(this.bytes.subarray(this.dataStart + begin, this.dataStart + end)).buffer;
  }
}
