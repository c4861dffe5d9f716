/** `maskctl inspect FILE`: what a mask file holds and needs, after decoding all of it where what it needs is at hand. */
import { basename } from 'node:path';
import type { Command } from 'commander';
import type { GlobalOptions } from '../global-options.js';
import { type FamilyOptions, MaskLacks, needsJson, type NeedsJson, needsText, parentOption } from '../mask-family.js';
import { checkMaskBytes, type MaskFile, type OpenMask, openMask } from '../mask-file.js';
import { writeNewFile } from '../new-file.js';
import { formatCount, printFields, printJson, printLine, printTable } from '../output.js';
import { percent } from '../pictures/heat-map.js';
import { openMaskFile } from '../pictures/mask-source.js';
import { drawSheet } from '../pictures/mask-sheet.js';
import { checkPicture } from '../pictures/svg.js';
import { type Progress, withProgress } from '../progress.js';

interface InspectOptions extends FamilyOptions {
  readonly png?: string;
}

/** What --json prints. Bytes of a tensor are those of its coded chunks. */
interface Inspection {
  readonly file: string;
  /** The picture that was written. */
  readonly png: string | null;
  readonly formatVersion: number;
  readonly n: number;
  readonly m: number;
  readonly digest: string;
  readonly contentDigest: string;
  readonly parent: string | null;
  readonly baseDigest: string;
  /** Of all its tensors, joined by +; empty if only the parent says which tensors there are, and it is not at hand. */
  readonly coder: string;
  /** What decoding takes beside the file. */
  readonly needs: NeedsJson;
  /** Where its parent was found. */
  readonly parentFile: string | null;
  /** Every symbol was, and the content digest compared; else only checksums were, for want of what `lacks` says. */
  readonly decoded: boolean;
  readonly lacks: string | null;
  readonly groups: number;
  /** Groups that differ from the parent's; null where that is not at hand. */
  readonly changedGroups: number | null;
  readonly parameters: number;
  readonly bytes: number;
  readonly payloadBytes: number;
  /** Of the whole file. */
  readonly bitsPerParameter: number;
  readonly payloadBitsPerParameter: number;
  readonly tensors: readonly {
    readonly name: string;
    readonly rows: number;
    readonly cols: number;
    readonly coder: string;
    readonly changedGroups: number | null;
    readonly bytes: number;
    readonly bitsPerParameter: number;
  }[];
}

export function addInspect(program: Command): void {
  program
    .command('inspect')
    .summary('show and verify a mask file')
    .description(
      'Show what a mask file holds. All of it is decoded, so a damaged file is reported as such; where its parent or the weights that it needs are not at hand, checksums are compared instead.',
    )
    .argument('<file>', 'a .mask file on this machine')
    .addOption(parentOption('the file'))
    .option('--model <dir>', 'its model, where it needs the weights (default: the one that its folder belongs to)')
    .option('--png <file>', 'draw it: a pixel for each group, coloured by its pattern, a panel for each matrix')
    .addHelpText('after', EXAMPLES)
    .action(async (file: string, _options: object, command: Command) => {
      const { png, json, ...near } = command.optsWithGlobals<InspectOptions & GlobalOptions>();
      if (png !== undefined) await checkPicture(png, '--png');
      const inspection = await withProgress('decoding', async (progress) => {
        const examined = examine(file, near, progress);
        if (png !== undefined) await draw(file, png, near, progress);
        return describe(file, examined, png);
      });
      if (json) printJson(inspection);
      else printForPeople(inspection);
    });
}

const EXAMPLES = `
Examples:
  $ maskctl inspect french.mask
  $ maskctl inspect french.mask --parent general.mask --model models/llama
  $ maskctl inspect french.mask --json | jq .bitsPerParameter
  $ maskctl inspect french.mask --png french.png`;

async function draw(file: string, png: string, near: FamilyOptions, progress: Progress): Promise<void> {
  const mask = openMaskFile(file, near);
  try {
    const { digest, summary } = mask;
    const bytes = await drawSheet({ title: basename(file), digest, ...summary }, (index) => {
      progress.update(index, summary.tensors.length, 'drawing');
      return mask.symbols(index);
    });
    await writeNewFile(png, [bytes]);
  } finally {
    mask.close();
  }
}

/** A file and what came of decoding it. */
interface Examined extends MaskFile {
  readonly parentFile?: string;
  readonly lacks?: string;
  /** Of each tensor, in the order of the summary; undefined where the parent is not at hand. */
  readonly changes?: readonly number[];
}

function examine(file: string, { model, parent }: FamilyOptions, progress: Progress): Examined {
  const near = { ...(model === undefined ? {} : { model }), ...(parent === undefined ? {} : { parent }) };
  try {
    const mask = openMask(file, { ...near, besideParent: true, progress });
    try {
      mask.read((reader) => reader.check());
      const [nearest] = mask.ancestors;
      const { digest, summary } = mask;
      if (nearest === undefined || nearest.content !== summary.parent) return { digest, summary };
      return { digest, summary, parentFile: nearest.path, changes: changesOf(mask) };
    } finally {
      mask.close();
    }
  } catch (error) {
    if (!(error instanceof MaskLacks)) throw error;
    return { ...checkMaskBytes(file), lacks: error.message };
  }
}

function changesOf({ read, summary }: OpenMask): number[] {
  return summary.tensors.map(({ changes }, index) => changes ?? read((reader) => reader.patch(index).groups.length));
}

function describe(file: string, { digest, summary, parentFile, lacks, changes }: Examined, png?: string): Inspection {
  const { version, n, m, content, parent, needs, base, parameters, fileBytes, payloadBytes, bitsPerParameter } =
    summary;
  return {
    file,
    png: png ?? null,
    formatVersion: version,
    n,
    m,
    digest,
    contentDigest: content,
    parent: parent ?? null,
    baseDigest: base,
    coder: [...new Set(summary.tensors.map((tensor) => tensor.coder))].join('+'),
    needs: needsJson(needs),
    parentFile: parentFile ?? null,
    decoded: lacks === undefined,
    lacks: lacks ?? null,
    groups: parameters / m,
    changedGroups: changes?.reduce((sum, count) => sum + count, 0) ?? null,
    parameters,
    bytes: fileBytes,
    payloadBytes,
    bitsPerParameter,
    payloadBitsPerParameter: (8 * payloadBytes) / parameters,
    tensors: summary.tensors.map(({ name, rows, cols, coder, payloadBytes: bytes }, index) => ({
      name,
      rows,
      cols,
      coder,
      changedGroups: changes?.[index] ?? null,
      bytes,
      bitsPerParameter: (8 * bytes) / (rows * cols),
    })),
  };
}

function printForPeople(inspection: Inspection): void {
  const { n, m, tensors, coder, lacks, parentFile, groups, changedGroups, bytes, payloadBytes } = inspection;
  const covered = tensors.length === 0 ? "its parent's tensors" : `${tensors.length} tensors`;
  printFields([
    ['file', inspection.file],
    ...(inspection.png === null ? [] : [['picture', inspection.png] as const]),
    ['format', [`version ${inspection.formatVersion}`, `${n}:${m}`, ...(coder === '' ? [] : [coder])].join(', ')],
    ['digest', inspection.digest],
    ['content', inspection.contentDigest],
    ['parent', [inspection.parent ?? 'none', ...(parentFile === null ? [] : [`(${parentFile})`])].join(' ')],
    ['needs', needsText(inspection.needs, parentFile ?? undefined)],
    ['base', inspection.baseDigest],
    ['covers', `${covered}, ${formatCount(inspection.parameters)} parameters`],
    ...(changedGroups === null
      ? []
      : [
          [
            'changed',
            `${formatCount(changedGroups)} of ${formatCount(groups)} groups (${percent(changedGroups / groups)})`,
          ] as const,
        ]),
    ['bytes', `${formatCount(bytes)} (${inspection.bitsPerParameter.toFixed(4)} bit per parameter)`],
    ['payload', `${formatCount(payloadBytes)} (${inspection.payloadBitsPerParameter.toFixed(4)} bit per parameter)`],
    ...(lacks === null ? [] : [['checked', `checksums only, ${lacks}`] as const]),
  ]);
  if (tensors.length > 0) printTensors(tensors);
}

function printTensors(tensors: Inspection['tensors']): void {
  printLine('');
  const header = ['TENSOR', 'ROWS', 'COLS', 'CODER', 'CHANGED', 'BYTES'];
  const rows = tensors.map(({ name, rows, cols, coder, changedGroups, bytes }) => [
    name,
    String(rows),
    String(cols),
    coder,
    changedGroups === null ? '–' : formatCount(changedGroups),
    formatCount(bytes),
  ]);
  printTable(header, rows, ['ROWS', 'COLS', 'CHANGED', 'BYTES']);
}
