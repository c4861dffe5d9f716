/** `maskctl diff A B`: how far one mask is from another, matrix by matrix. */
import type { Command } from 'commander';
import type { GlobalOptions } from '../global-options.js';
import { type FamilyOptions, parentOption } from '../mask-family.js';
import { formatCount, printFields, printJson, printLine, printTable, shortDigest } from '../output.js';
import {
  bitsPerParameter,
  changedShare,
  compareMasks,
  type Difference,
  type MatrixDifference,
  singleSwapShare,
  totalDifference,
} from '../pictures/difference.js';
import { heatMapSvg, percent } from '../pictures/heat-map.js';
import { layerGrid } from '../pictures/layer-grid.js';
import { type MaskSource, openMask } from '../pictures/mask-source.js';
import { checkPicture, writePicture } from '../pictures/svg.js';
import { type Progress, withProgress } from '../progress.js';

interface DiffOptions extends FamilyOptions {
  readonly png?: string;
}

/** Of one matrix or of all together, as --json prints it. */
interface Numbers {
  readonly groups: number;
  readonly changed: number;
  readonly changedShare: number;
  readonly singleSwaps: number;
  /** Of the changed groups; null where none is. */
  readonly singleSwapShare: number | null;
  /** Conditional entropy of B's patterns given A's. */
  readonly bits: number;
  readonly bitsPerParameter: number;
}

/** What --json prints. */
interface Compared extends Numbers {
  readonly a: Side;
  readonly b: Side;
  readonly baseDigest: string;
  readonly n: number;
  readonly m: number;
  readonly parameters: number;
  /** The picture that was written. */
  readonly png: string | null;
  readonly matrices: readonly (Numbers & { readonly name: string; readonly rows: number; readonly cols: number })[];
}

interface Side {
  readonly name: string;
  /** null: it came from the server. */
  readonly file: string | null;
  readonly task: string | null;
  readonly digest: string;
  readonly contentDigest: string;
  readonly bytes: number;
}

export function addDiff(program: Command): void {
  program
    .command('diff')
    .summary('show how far one mask is from another')
    .description(
      'Compare two masks for the same weights, matrix by matrix: the share of groups whose pattern changed, how many of those ' +
        'changes are a single swap (one kept weight out, one in), and the bits per parameter that an ideal coder needs for B if ' +
        'it knows A (conditional entropy). A and B are files, or else tasks of the server.',
    )
    .argument('<a>', 'a .mask file, or a task of the server (TASK or TASK@DIGEST)')
    .argument('<b>', 'the same, compared with A')
    .addOption(parentOption('a file'))
    .option(
      '--model <dir>',
      'their model, where a file needs its weights (default: the one that its folder belongs to)',
    )
    .option('--png <file>', 'draw the share of changed groups as a heat map, layers × matrices')
    .addHelpText('after', EXAMPLES)
    .action(async (a: string, b: string, _options: object, command: Command) => {
      const options = command.optsWithGlobals<DiffOptions & GlobalOptions>();
      if (options.png !== undefined) await checkPicture(options.png, '--png');
      const compared = await withProgress('comparing', (progress) => compare(a, b, options, progress));
      if (options.json) printJson(compared);
      else printForPeople(compared);
    });
}

const EXAMPLES = `
Examples:
  $ maskctl diff general.mask french.mask
  $ maskctl diff general french --png french-against-general.png
  $ maskctl diff french@3f9a52c01b7e french --json | jq .changedShare`;

async function compare(
  nameA: string,
  nameB: string,
  options: DiffOptions & GlobalOptions,
  progress: Progress,
): Promise<Compared> {
  const { png } = options;
  const a = await openMask(nameA, options, progress);
  try {
    const b = await openMask(nameB, options, progress);
    try {
      const matrices = compareMasks(a, b, (done, of) => progress.update(done, of, 'comparing'));
      if (png !== undefined) await writePicture(png, heatMapOf(a, b, matrices));
      return describe(a, b, matrices, png);
    } finally {
      b.close();
    }
  } finally {
    a.close();
  }
}

function describe(a: MaskSource, b: MaskSource, matrices: readonly MatrixDifference[], png?: string): Compared {
  const total = totalDifference(matrices);
  return {
    a: sideOf(a),
    b: sideOf(b),
    baseDigest: a.summary.base,
    n: a.summary.n,
    m: a.summary.m,
    parameters: total.parameters,
    png: png ?? null,
    ...numbersOf(total),
    matrices: matrices.map(({ name, rows, cols, ...difference }) => ({ name, rows, cols, ...numbersOf(difference) })),
  };
}

function sideOf({ name, file, task, digest, summary }: MaskSource): Side {
  return { name, file, task, digest, contentDigest: summary.content, bytes: summary.fileBytes };
}

function numbersOf(difference: Difference): Numbers {
  const { groups, changed, singleSwaps, bits } = difference;
  return {
    groups,
    changed,
    changedShare: changedShare(difference),
    singleSwaps,
    singleSwapShare: singleSwapShare(difference),
    bits,
    bitsPerParameter: bitsPerParameter(difference),
  };
}

function heatMapOf(a: MaskSource, b: MaskSource, matrices: readonly MatrixDifference[]): string {
  const { rowLabels, columnLabels, places } = layerGrid(matrices.map(({ name }) => name));
  const shares = rowLabels.map(() => columnLabels.map((): number | undefined => undefined));
  matrices.forEach((difference, index) => {
    const { row, column } = places[index] as { row: number; column: number };
    shares[row]![column] = changedShare(difference);
  });
  const total = totalDifference(matrices);
  return heatMapSvg({
    title: `${titleOf(b)} against ${titleOf(a)}`,
    notes: [
      `A: digest ${shortDigest(a.digest)}  ·  ${titleOf(a)}`,
      `B: digest ${shortDigest(b.digest)}  ·  ${titleOf(b)}`,
      changeText(total),
      `conditional entropy of B given A: ${bitsPerParameter(total).toFixed(4)} bit per parameter`,
    ],
    quantity: 'share of changed groups',
    rowLabels,
    columnLabels,
    shares,
  });
}

function titleOf({ name }: MaskSource): string {
  return name.replace(/^.*[/\\]/, '');
}

function changeText(total: Difference): string {
  const swaps = singleSwapShare(total);
  const changed = `${percent(changedShare(total))} of ${formatCount(total.groups)} groups changed`;
  return swaps === null ? changed : `${changed}, ${percent(swaps)} of these by a single swap`;
}

function printForPeople(compared: Compared): void {
  const { a, b, matrices } = compared;
  printFields([
    ['A', `${a.name}, digest ${shortDigest(a.digest)}, ${formatCount(a.bytes)} bytes`],
    ['B', `${b.name}, digest ${shortDigest(b.digest)}, ${formatCount(b.bytes)} bytes`],
    ['base', compared.baseDigest],
    ...(compared.png === null ? [] : [['picture', compared.png] as const]),
  ]);
  printLine('');
  const header = ['MATRIX', 'GROUPS', 'CHANGED', 'SHARE', 'SINGLE SWAPS', 'BIT/PARAM'];
  const rows = [...matrices, { name: 'all', ...compared }].map((line) => [
    line.name,
    formatCount(line.groups),
    formatCount(line.changed),
    percent(line.changedShare),
    line.singleSwapShare === null ? '–' : percent(line.singleSwapShare),
    line.bitsPerParameter.toFixed(4),
  ]);
  printTable(header, rows, header.slice(1));
}
