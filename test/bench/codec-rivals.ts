/**
 * What anybody could store a mask with: general-purpose compressors over a raw form, one bit a weight (numpy's packbits, as masks are published)
 * or one symbol a byte, whichever deflate makes smaller. Where there is a parent the form is XORed with the parent's, or, for zstd's own way
 * with deltas, compressed beside the parent's.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { brotliCompressSync, constants, deflateRawSync } from 'node:zlib';
import type { MaskSet } from '../../codec/mask-set.js';
import { patternTable } from '../../codec/pattern.js';

export interface RivalSizes {
  /** Bytes; undefined: the `zstd` command is not there. */
  readonly zstd19: number | undefined;
  readonly brotli11: number;
  /** MaskLLM publishes its masks so: bits in an .npz, which is a zip. Never XORed. */
  readonly deflatedBits: number;
  /** `zstd -19 --patch-from` the parent; undefined without a parent, or without the command. */
  readonly zstdPatchFrom: number | undefined;
}

export function rivalSizes(set: MaskSet, parent?: MaskSet): RivalSizes {
  const bits = rawForm(packBits, set, parent);
  const symbols = rawForm(symbolBytes, set, parent);
  const { whole, delta, before } = deflated(bits.delta).length <= deflated(symbols.delta).length ? bits : symbols;
  return {
    zstd19: zstdBytes(delta, 19)?.length,
    brotli11: brotliBytes(delta).length,
    deflatedBits: deflated(bits.whole).length,
    zstdPatchFrom: before && zstdPatchBytes(whole, before, 19),
  };
}

interface RawForm {
  readonly whole: Uint8Array;
  /** The parent's. */
  readonly before: Uint8Array | undefined;
  /** Both XORed; without a parent the whole. */
  readonly delta: Uint8Array;
}

function rawForm(of: (set: MaskSet) => Uint8Array, set: MaskSet, parent: MaskSet | undefined): RawForm {
  const whole = of(set);
  const before = parent && of(parent);
  return { whole, before, delta: before === undefined ? whole : whole.map((byte, i) => byte ^ (before[i] ?? 0)) };
}

function deflated(bytes: Uint8Array): Uint8Array {
  return deflateRawSync(bytes);
}

/** Compressed by the `zstd` command; undefined where there is none. */
export function zstdBytes(bytes: Uint8Array, level: number): Uint8Array | undefined {
  return runZstd([`-${level}`, '--single-thread', '-c', '-q'], bytes);
}

/** Bytes that zstd needs for a file beside another one that its reader has. */
function zstdPatchBytes(bytes: Uint8Array, from: Uint8Array, level: number): number | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'maskserve-zstd-'));
  try {
    const [reference, file] = [join(folder, 'parent'), join(folder, 'child')];
    writeFileSync(reference, from);
    writeFileSync(file, bytes);
    return runZstd([`-${level}`, '--single-thread', '--long=27', `--patch-from=${reference}`, '-c', '-q', file])
      ?.length;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

export interface ZstdSpeed {
  readonly level: number;
  readonly encodeSeconds: number;
  readonly decodeSeconds: number;
}

/** What `zstd -b` (its own benchmark, in memory) measures on `bytes`; undefined where there is no such command. */
export function zstdSpeeds(bytes: Uint8Array, levels: readonly number[]): ZstdSpeed[] | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'maskserve-zstd-'));
  try {
    const file = join(folder, 'nibbles');
    writeFileSync(file, bytes);
    const speeds = levels.map((level) => zstdSpeed(file, level, bytes.length));
    return speeds.every((speed) => speed !== undefined) ? speeds : undefined;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function zstdSpeed(file: string, level: number, bytes: number): ZstdSpeed | undefined {
  const child = spawnSync('zstd', [`-b${level}`, '-i1', file], { encoding: 'utf8' });
  if (child.error) return undefined;
  const speeds = [...`${child.stdout}${child.stderr}`.matchAll(/([\d.]+) MB\/s/g)]
    .slice(-2)
    .map((match) => Number(match[1]));
  const [encode, decode] = speeds;
  if (encode === undefined || decode === undefined)
    throw new Error(`zstd -b${level} printed no speeds: ${child.stdout}`);
  return { level, encodeSeconds: bytes / encode / 1e6, decodeSeconds: bytes / decode / 1e6 };
}

function runZstd(args: string[], input?: Uint8Array): Uint8Array | undefined {
  const child = spawnSync('zstd', args, { ...(input === undefined ? {} : { input }), maxBuffer: 2 ** 32 });
  if (child.error && 'code' in child.error && child.error.code === 'ENOENT') return undefined;
  if (child.error) throw child.error;
  if (child.status !== 0) throw new Error(`zstd ${args.join(' ')} failed: ${child.stderr.toString().trim()}`);
  return child.stdout;
}

function brotliBytes(bytes: Uint8Array): Uint8Array {
  const params = {
    [constants.BROTLI_PARAM_QUALITY]: 11,
    [constants.BROTLI_PARAM_LGWIN]: 24,
    [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
  };
  return brotliCompressSync(bytes, { params });
}

/** numpy.packbits of the kept positions, matrix after matrix: the first weight is the highest bit. */
export function packBits(set: MaskSet): Uint8Array {
  const { m, positions } = patternTable(set.n, set.m);
  const weights = set.masks.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
  const bits = new Uint8Array(Math.ceil(weights / 8));
  let first = 0;
  for (const { symbols: list } of set.masks) {
    for (const symbol of list) {
      for (const position of positions[symbol] ?? []) {
        const at = first + position;
        bits[at >> 3] = (bits[at >> 3] ?? 0) | (0x80 >> (at & 7));
      }
      first += m;
    }
  }
  return bits;
}

function symbolBytes(set: MaskSet): Uint8Array {
  return new Uint8Array(Buffer.concat(set.masks.map((mask) => mask.symbols)));
}
