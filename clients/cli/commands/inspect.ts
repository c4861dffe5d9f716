/** `maskctl inspect FILE`: what a mask file holds, after decoding all of it. */
import type { Command } from 'commander';
import type { GlobalOptions } from '../global-options.js';
import { checkMaskFile, type MaskFile } from '../mask-file.js';
import { formatCount, printFields, printJson, printLine, printTable } from '../output.js';
import { withProgress } from '../progress.js';

/** What --json prints. Bytes of a tensor are those of its coded chunks. */
interface Inspection {
  readonly file: string;
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
    .addHelpText('after', EXAMPLES)
    .action(async (file: string, _options: object, command: Command) => {
      const checked = await withProgress('decoding', (progress) => checkMaskFile(file, progress));
      const inspection = describe(file, checked);
      if (command.optsWithGlobals<GlobalOptions>().json) printJson(inspection);
      else printForPeople(inspection);
    });
}

const EXAMPLES = `
Examples:
  $ maskctl inspect french.mask
  $ maskctl inspect french.mask --json | jq .bitsPerParameter`;

function describe(file: string, { digest, summary }: MaskFile): Inspection {
  const { version, n, m, content, parent, base, parameters, fileBytes, payloadBytes, bitsPerParameter } = summary;
  return {
    file,
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
