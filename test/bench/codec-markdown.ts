/** The size table as README.md shows it. */
import type { SetFigures } from './codec-sizes.js';

const HEAD = [
  'set',
  'changed groups',
  'file, bytes',
  'maskserve',
  'its payload',
  'entropy in the fixed context',
  'coders',
  'zstd -19',
  'zstd --patch-from',
  'brotli 11',
  'deflated bits',
];

/** Bits per parameter where nothing else is said. */
export function sizeMarkdown(sets: readonly SetFigures[]): string {
  const rows = sets.map((set) => {
    const { row, name, parameters, changed, fileBytes, payloadBytes, referenceEntropyBytes, chosen, rivals } = set;
    const bits = (bytes: number | undefined): string =>
      bytes === undefined ? '' : significant((8 * bytes) / parameters);
    return [
      `(${row}) ${name}`,
      changed === undefined ? '' : `${(100 * changed).toFixed(2)}%`,
      fileBytes.toLocaleString('en'),
      `**${bits(fileBytes)}**`,
      payloadBytes === 0 ? '0' : bits(payloadBytes),
      bits(referenceEntropyBytes),
      Object.keys(chosen).join(', '),
      bits(rivals?.zstd19),
      bits(rivals?.zstdPatchFrom),
      bits(rivals?.brotli11),
      bits(rivals?.deflatedBits),
    ];
  });
  const rule = HEAD.map((_, i) => (i === 0 || i === 6 ? '---' : '---:'));
  return [HEAD, rule, ...rows].map((cells) => `| ${cells.join(' | ')} |\n`).join('');
}

/** Four decimals, fewer where the figure is large. */
function significant(bits: number): string {
  return bits.toFixed(bits >= 0.1 ? 3 : 4);
}
