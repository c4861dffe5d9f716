/** What a mask set costs in each coder, beside general-purpose compressors and the entropy in a fixed context, and where its bits go. */
import { CODERS, coderNamed, type CoderName } from '../../codec/coder.js';
import { ContainerReader } from '../../codec/decode.js';
import { encodeMaskSet, type EncodeOptions } from '../../codec/encode.js';
import { CodecError } from '../../codec/errors.js';
import { groupContexts, toCoded } from '../../codec/group-contexts.js';
import { patternTable } from '../../codec/pattern.js';
import { rivalSizes, type RivalSizes } from './codec-rivals.js';
import type { MeasuredSet } from './codec-sets.js';

export interface SetFigures {
  readonly row: string;
  readonly name: string;
  readonly parameters: number;
  /** Share of groups that differ from the parent's. */
  readonly changed: number | undefined;
  readonly fileBytes: number;
  readonly payloadBytes: number;
  /** 8 · fileBytes / parameters */
  readonly bitsPerParameter: number;
  readonly payloadBitsPerParameter: number;
  /** FORMAT.md §7, bytes: what a patch is compared with. Undefined without parent and weights. */
  readonly referenceEntropyBytes: number | undefined;
  /** Tensors of the smallest file by coder. */
  readonly chosen: Readonly<Record<string, number>>;
  /** Sections of the smallest file, bytes. */
  readonly sections: Readonly<Record<'header' | 'tensors' | 'models' | 'index' | 'payload', number>>;
  /** With one coder for all tensors; undefined: it does not apply. */
  readonly coders: Readonly<Partial<Record<CoderName, CoderSize>>>;
  /** Undefined for sets that only a bar asks for. */
  readonly rivals: RivalSizes | undefined;
}

/** Bytes. */
export interface CoderSize {
  readonly file: number;
  readonly payload: number;
}

const RANDOM_MATRICES = 7;

export function measureSet(measured: MeasuredSet): SetFigures {
  const { row, name, set, parent, weights, derived } = measured;
  const context = { ...(parent === undefined ? {} : { parent }), ...(weights === undefined ? {} : { weights }) };
  const file = encodeMaskSet(set, { context });
  const { summary } = new ContainerReader(file, { context });
  const chosen: Record<string, number> = {};
  for (const { coder } of summary.tensors) chosen[coder] = (chosen[coder] ?? 0) + 1;
  return {
    row,
    name,
    parameters: summary.parameters,
    changed: changedShare(measured),
    fileBytes: file.length,
    payloadBytes: summary.payloadBytes,
    bitsPerParameter: summary.bitsPerParameter,
    payloadBitsPerParameter: (8 * summary.payloadBytes) / summary.parameters,
    referenceEntropyBytes: referenceEntropyBytes(measured),
    chosen,
    sections: sectionsOf(file, summary.payloadBytes),
    coders: Object.fromEntries(
      CODERS.flatMap(({ name: coder }) => {
        const size = derived === true ? undefined : sizeWith(coder, measured, context);
        return size === undefined ? [] : [[coder, size]];
      }),
    ),
    rivals: derived === true ? undefined : rivalsOf(measured, summary.parameters),
  };
}

/** Random masks are alike everywhere: their rivals are measured on some matrices, and take as much for each of the others. */
function rivalsOf({ row, set, parent }: MeasuredSet, parameters: number): RivalSizes {
  if (row !== 'a') return rivalSizes(set, parent);
  const masks = set.masks.slice(0, RANDOM_MATRICES);
  const times = parameters / masks.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
  const { zstd19, brotli11, deflatedBits } = rivalSizes({ ...set, masks });
  return {
    zstd19: zstd19 && Math.round(times * zstd19),
    brotli11: Math.round(times * brotli11),
    deflatedBits: Math.round(times * deflatedBits),
    zstdPatchFrom: undefined,
  };
}

/** Undefined where the coder needs what there is not, or can't code the set (`magnitude` of another mask, a patch of everything). */
function sizeWith(coder: CoderName, { set }: MeasuredSet, context: EncodeOptions['context']): CoderSize | undefined {
  const { needsParent, needsWeights } = coderNamed(coder);
  if ((needsParent && !context?.parent) || (needsWeights && !context?.weights)) return undefined;
  try {
    const file = encodeMaskSet(set, { coder, ...(context === undefined ? {} : { context }) });
    return { file: file.length, payload: payloadOf(file) };
  } catch (error) {
    if (error instanceof CodecError) return undefined;
    throw error;
  }
}

function changedShare({ set, parent }: MeasuredSet): number | undefined {
  if (parent === undefined) return undefined;
  const parentOf = new Map(parent.masks.map((mask) => [mask.name, mask.symbols]));
  let [changed, groups] = [0, 0];
  for (const { name, symbols } of set.masks) {
    const from = parentOf.get(name);
    groups += symbols.length;
    symbols.forEach((symbol, i) => (changed += symbol === from?.[i] ? 0 : 1));
  }
  return changed / groups;
}

/** Σ N(c, s) · log2(N(c) / N(c, s)) over the contexts of `parent+weights` and the child's rank patterns: FORMAT.md §7. */
function referenceEntropyBytes({ set, parent, weights }: MeasuredSet): number | undefined {
  if (parent === undefined || weights === undefined) return undefined;
  const patterns = patternTable(set.n, set.m);
  const parentOf = new Map(parent.masks.map((mask) => [mask.name, mask.symbols]));
  const counts = new Float64Array(10 * patterns.count * patterns.count);
  for (const { name, symbols } of set.masks) {
    const [words, from] = [weights(name), parentOf.get(name)];
    if (words === undefined || from === undefined) return undefined;
    const selection = { first: 0, count: symbols.length };
    const contexts = groupContexts(coderNamed('parent+weights'), patterns, { parent: from, weights: words }, selection);
    toCoded(symbols, contexts, patterns).forEach((symbol, i) => {
      const at = (contexts.contexts[i] ?? 0) * patterns.count + symbol;
      counts[at] = (counts[at] ?? 0) + 1;
    });
  }
  let bits = 0;
  for (let at = 0; at < counts.length; at += patterns.count) {
    const row = counts.subarray(at, at + patterns.count);
    const sum = row.reduce((total, count) => total + count, 0);
    for (const count of row) if (count > 0) bits += count * Math.log2(sum / count);
  }
  return bits / 8;
}

function payloadOf(file: Uint8Array): number {
  return new DataView(file.buffer, file.byteOffset).getUint32(40, true);
}

/** Lengths of FORMAT.md §3. */
function sectionsOf(file: Uint8Array, payload: number): SetFigures['sections'] {
  const view = new DataView(file.buffer, file.byteOffset);
  const [tensors, models, index] = [view.getUint32(20, true), view.getUint32(24, true), view.getUint32(28, true)];
  return { header: file.length - tensors - models - index - payload, tensors, models, index, payload };
}

/** A line a set: bits per parameter, whole files. */
export function sizeTable(figures: readonly SetFigures[]): string {
  const coders = CODERS.map(({ name }) => name);
  const head = [
    '',
    'set',
    'changed',
    'file',
    'bit/param',
    'payload',
    'entropy',
    ...coders,
    'zstd -19',
    'brotli 11',
    'bits.zip',
    'zstd -19 --patch-from',
  ];
  const lines = figures.map((one) => {
    const bits = (bytes: number | undefined): string =>
      bytes === undefined ? '–' : ((8 * bytes) / one.parameters).toFixed(4);
    return [
      one.row,
      one.name,
      one.changed === undefined ? '' : `${(100 * one.changed).toFixed(3)}%`,
      `${one.fileBytes}`,
      one.bitsPerParameter.toFixed(4),
      one.payloadBitsPerParameter.toFixed(4),
      bits(one.referenceEntropyBytes),
      ...coders.map((coder) => bits(one.coders[coder]?.file)),
      bits(one.rivals?.zstd19),
      bits(one.rivals?.brotli11),
      bits(one.rivals?.deflatedBits),
      bits(one.rivals?.zstdPatchFrom),
    ];
  });
  const widths = head.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i]?.length ?? 0)));
  const text = [head, ...lines].map((line) => line.map((cell, i) => cell.padStart(widths[i] ?? 0)).join('  '));
  const where = figures.map(({ name, sections, chosen }) => {
    const parts = Object.entries(sections).map(([section, bytes]) => `${section} ${bytes}`);
    const tensors = Object.entries(chosen).map(([coder, count]) => `${count} ${coder}`);
    return `  ${name}: ${parts.join(', ')} bytes; tensors: ${tensors.join(', ')}`;
  });
  return [...text, '', 'where the bytes go:', ...where].join('\n');
}
