/** `maskctl inspect FILE`: what a mask file holds, after decoding all of it. */
import { basename } from 'node:path';
import type { Command } from 'commander';
import type { GlobalOptions } from '../global-options.js';
import { checkMaskFile, type MaskFile } from '../mask-file.js';
import { writeNewFile } from '../new-file.js';
import { formatCount, printFields, printJson, printLine, printTable } from '../output.js';
import { openMaskFile } from '../pictures/mask-source.js';
import { drawSheet } from '../pictures/mask-sheet.js';
import { checkPicture } from '../pictures/svg.js';
import { type Progress, withProgress } from '../progress.js';

interface InspectOptions {
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
  readonly coder: string;
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
    readonly bytes: number;
    readonly bitsPerParameter: number;
  }[];
}

export function addInspect(program: Command): void {
  program
    .command('inspect')
    .summary('show and verify a mask file')
    .description('Show what a mask file holds. All of it is decoded, so a damaged file is reported as such.')
    .argument('<file>', 'a .mask file on this machine')
    .option('--png <file>', 'draw it: a pixel for each group, coloured by its pattern, a panel for each matrix')
    .addHelpText('after', EXAMPLES)
    .action(async (file: string, _options: object, command: Command) => {
      const { png, json } = command.optsWithGlobals<InspectOptions & GlobalOptions>();
      if (png !== undefined) await checkPicture(png, '--png');
      const inspection = await withProgress('decoding', async (progress) => {
        const checked = checkMaskFile(file, progress);
        if (png !== undefined) await draw(file, png, progress);
        return describe(file, checked, png);
      });
      if (json) printJson(inspection);
      else printForPeople(inspection);
    });
}

const EXAMPLES = `
Examples:
  $ maskctl inspect french.mask
  $ maskctl inspect french.mask --json | jq .bitsPerParameter
  $ maskctl inspect french.mask --png french.png`;

async function draw(file: string, png: string, progress: Progress): Promise<void> {
  const mask = openMaskFile(file);
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

function describe(file: string, { digest, summary }: MaskFile, png?: string): Inspection {
  const { version, n, m, content, parent, base, parameters, fileBytes, payloadBytes, bitsPerParameter } = summary;
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
    parameters,
    bytes: fileBytes,
    payloadBytes,
    bitsPerParameter,
    payloadBitsPerParameter: (8 * payloadBytes) / parameters,
    tensors: summary.tensors.map(({ name, rows, cols, coder, payloadBytes: bytes }) => ({
      name,
      rows,
      cols,
      coder,
      bytes,
      bitsPerParameter: (8 * bytes) / (rows * cols),
    })),
  };
}

function printForPeople(inspection: Inspection): void {
  const { n, m, tensors, parameters, bytes } = inspection;
  printFields([
    ['file', inspection.file],
    ...(inspection.png === null ? [] : [['picture', inspection.png] as const]),
    ['format', `version ${inspection.formatVersion}, ${n}:${m}, ${inspection.coder}`],
    ['digest', inspection.digest],
    ['content', inspection.contentDigest],
    ['parent', inspection.parent ?? 'none'],
    ['base', inspection.baseDigest],
    ['covers', `${tensors.length} tensors, ${formatCount(parameters)} parameters`],
    ['bytes', `${formatCount(bytes)} (${inspection.bitsPerParameter.toFixed(4)} bit per parameter)`],
    [
      'payload',
      `${formatCount(inspection.payloadBytes)} (${inspection.payloadBitsPerParameter.toFixed(4)} bit per parameter)`,
    ],
  ]);
  printLine('');
  printTable(
    ['TENSOR', 'ROWS', 'COLS', 'BYTES'],
    tensors.map(({ name, rows, cols, bytes: own }) => [name, String(rows), String(cols), formatCount(own)]),
    ['ROWS', 'COLS', 'BYTES'],
  );
}
