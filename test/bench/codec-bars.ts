/** Issue 5's bars for the codec: what each set, coder and patch reaches, beside its bound. */
import { NAMED_CHURNS } from './codec-sets.js';
import type { SetFigures } from './codec-sizes.js';
import type { SpeedFigures } from './codec-speed.js';

export interface CodecBar {
  readonly what: string;
  readonly reached: number;
  readonly bound: number;
  readonly unit: 'bit/param' | 'bytes' | 'of the entropy' | 'G groups/s' | 'G param/s';
  /** Whether the bound is the most that is allowed, or the least. */
  readonly bounds: 'above' | 'below';
  readonly pass: boolean;
}

const PAYLOAD_OVER_ENTROPY = 1.05;
const FILE_OVER_ENTROPY = 1.3;
const FILE_BYTES_MORE = 2048;
/** KB are thousands of bytes here, the stricter reading. */
const NAMED_FILE_BYTES = [220_000, 8_000] as const;
const DOMAIN_AVERAGE = 0.06;
const [DECODE, DECODE_CHILD, PATCH_RATE] = [1.0, 0.4, 20];

export function codecBars(sets: readonly SetFigures[], speed: SpeedFigures): CodecBar[] {
  const patches = sets.filter(({ row }) => row === 'd' || row === 'e');
  return [
    ...rootBars(sets),
    ...patches.flatMap(entropyBars),
    ...NAMED_CHURNS.flatMap((churn, i) => namedBar(patches, churn, NAMED_FILE_BYTES[i] ?? 0)),
    ...domainBar(sets),
    ...sets.filter(({ row }) => row !== 'a').flatMap(rivalBars),
    ...speedBars(speed),
  ];
}

export function barTable(bars: readonly CodecBar[]): string {
  const failed = bars.filter(({ pass }) => !pass).length;
  const lines = bars.map(({ what, reached, bound, bounds, unit, pass }) => {
    const sign = bounds === 'above' ? '≤' : '≥';
    const figure = `${shown(reached, unit)} ${sign} ${shown(bound, unit)} ${unit}`;
    return `  ${pass ? 'PASS' : 'FAIL'}  ${what.padEnd(58)} ${figure}`;
  });
  return ['', `bars: ${bars.length - failed} of ${bars.length} reached`, ...lines].join('\n');
}

function rootBars(sets: readonly SetFigures[]): CodecBar[] {
  return sets.flatMap((set) => {
    const { name, row, parameters, payloadBytes, bitsPerParameter, coders } = set;
    if (row === 'a') {
      const arithmetic = (8 * (coders['uniform-ac']?.payload ?? Infinity)) / parameters;
      return [
        atMost(`${name}: payload in uniform-ac`, arithmetic, 0.6465, 'bit/param'),
        atMost(`${name}: file in the fast coder`, bitsPerParameter, 0.652, 'bit/param'),
      ];
    }
    if (row !== 'b') return [];
    if (name.endsWith('magnitude')) return [atMost(`${name}: payload, a flag is enough`, payloadBytes, 0, 'bytes')];
    return [atMost(`${name}: file`, bitsPerParameter, name.endsWith('wanda') ? 0.22 : 0.35, 'bit/param')];
  });
}

function entropyBars({ name, payloadBytes, fileBytes, referenceEntropyBytes: entropy }: SetFigures): CodecBar[] {
  if (entropy === undefined) return [];
  const most = FILE_OVER_ENTROPY * entropy + FILE_BYTES_MORE;
  return [
    atMost(`${name}: payload`, payloadBytes / entropy, PAYLOAD_OVER_ENTROPY, 'of the entropy'),
    atMost(`${name}: file, against 1.3 × entropy + 2 KB`, fileBytes, Math.floor(most), 'bytes'),
  ];
}

/** The patch of just that share, if there is one. */
function namedBar(patches: readonly SetFigures[], churn: number, most: number): CodecBar[] {
  const share = `${(100 * churn).toFixed(2)}%`;
  const named = patches.find(({ changed, row }) => row === 'e' && Math.abs((changed ?? 0) / churn - 1) < 0.005);
  return named === undefined
    ? []
    : [atMost(`a patch of ${share} of a real model: file`, named.fileBytes, most, 'bytes')];
}

function domainBar(sets: readonly SetFigures[]): CodecBar[] {
  const domains = sets.filter(({ row }) => row === 'd');
  const sum = domains.reduce((total, { bitsPerParameter }) => total + bitsPerParameter, 0);
  const what = `the ${domains.length} shipped domain masks, files on average`;
  return domains.length === 0 ? [] : [atMost(what, sum / domains.length, DOMAIN_AVERAGE, 'bit/param')];
}

function rivalBars({ name, fileBytes, rivals }: SetFigures): CodecBar[] {
  if (rivals === undefined) return [];
  const sizes: readonly [string, number | undefined][] = [
    ['zstd -19', rivals.zstd19],
    ['zstd --patch-from', rivals.zstdPatchFrom],
    ['brotli 11', rivals.brotli11],
    ['deflated bits', rivals.deflatedBits],
  ];
  const [rival, smallest] = sizes.reduce((best, one) => ((one[1] ?? Infinity) < (best[1] ?? Infinity) ? one : best));
  return [atMost(`${name}: file, the smallest rival is ${rival}`, fileBytes, smallest ?? Infinity, 'bytes')];
}

function speedBars({ coders, patches }: SpeedFigures): CodecBar[] {
  const least = { uniform: DECODE, static: DECODE, 'parent+weights': DECODE_CHILD };
  return [
    ...coders.flatMap(({ coder, decode, encode }) => {
      if (!(coder in least)) return [];
      const bound = least[coder as keyof typeof least];
      return [
        atLeast(`decode ${coder}`, decode, bound, 'G groups/s'),
        atLeast(`encode ${coder}`, encode, bound / 4, 'G groups/s'),
      ];
    }),
    ...patches.map(({ coder, churn, rate }) =>
      atLeast(`${coder}, ${(100 * churn).toFixed(2)}% changed: decode and apply`, rate, PATCH_RATE, 'G param/s'),
    ),
  ];
}

function atMost(what: string, reached: number, bound: number, unit: CodecBar['unit']): CodecBar {
  return { what, reached, bound, unit, bounds: 'above', pass: reached <= bound };
}

function atLeast(what: string, reached: number, bound: number, unit: CodecBar['unit']): CodecBar {
  return { what, reached, bound, unit, bounds: 'below', pass: reached >= bound };
}

function shown(value: number, unit: CodecBar['unit']): string {
  if (unit === 'bytes') return value.toFixed(0);
  return value.toFixed(unit === 'G param/s' ? 1 : unit === 'G groups/s' ? 2 : 4);
}
