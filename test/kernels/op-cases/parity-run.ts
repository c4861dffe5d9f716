/** What a process that ran the cases on one instruction set says, in JSON. */
import type { Agreement, Outputs } from './op-case.js';

const ARRAYS = { Float32Array, Float64Array, Uint16Array, Uint8Array, Int32Array } as const;

export interface PackedOutput {
  readonly array: keyof typeof ARRAYS;
  readonly base64: string;
}

export interface ParityRun {
  readonly cases: readonly {
    readonly name: string;
    readonly agreement: Agreement;
    readonly outputs: Readonly<Record<string, PackedOutput>>;
  }[];
  /** Names of the addon's functions. */
  readonly called: readonly string[];
}

export function packed(outputs: Outputs): Record<string, PackedOutput> {
  return Object.fromEntries(
    Object.entries(outputs).map(([name, values]) => {
      const base64 = Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('base64');
      return [name, { array: values.constructor.name as PackedOutput['array'], base64 }];
    }),
  );
}

export function unpacked(outputs: Readonly<Record<string, PackedOutput>>): Outputs {
  return Object.fromEntries(
    Object.entries(outputs).map(([name, { array, base64 }]) => {
      const bytes = Uint8Array.from(Buffer.from(base64, 'base64'));
      return [name, new ARRAYS[array](bytes.buffer)];
    }),
  );
}
