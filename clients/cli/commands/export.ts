/** `maskctl export`: a task in formats that others read: masks, a pruned checkpoint, or an ONNX model. */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { DENSE_TASK } from '../../../server/store/task-name.js';
import { UsageError } from '../usage-error.js';
import type { GlobalOptions } from '../global-options.js';
import { type BaseModel, openBase } from '../interchange/base-model.js';
import { exportBitmask, exportDense } from '../interchange/checkpoint-export.js';
import { type ChosenMask, maskPath, openChosenMask } from '../interchange/chosen-mask.js';
import { npzOf } from '../interchange/npz-export.js';
import { DATA_FILE, exportOnnx, MODEL_FILE } from '../interchange/onnx/onnx-export.js';
import type { GraphOptions } from '../interchange/onnx/llama-graph.js';
import { parentOption } from '../mask-family.js';
import { checkNewDirectory, writeNewDirectory } from '../new-directory.js';
import { checkWritable, writeNewFile } from '../new-file.js';
import { formatCount, printFields, printJson } from '../output.js';
import { DEFAULT_MODEL } from '../package-root.js';
import { type Progress, withProgress } from '../progress.js';

const FORMATS = ['npz', 'dense', 'bitmask', 'onnx'] as const;
type Format = (typeof FORMATS)[number];

interface ExportOptions extends GlobalOptions {
  readonly format: Format;
  readonly out: string;
  readonly model?: string;
  readonly task?: string;
  readonly mask?: string;
  readonly parent?: string;
  /** onnx: false for a graph without past keys and values. */
  readonly cache: boolean;
  readonly logits: GraphOptions['logits'];
}

/** What --json prints. */
interface Exported {
  readonly format: Format;
  /** The file, or the directory, that was written. */
  readonly out: string;
  readonly bytes: number;
  /** Of the container; null for the dense model. */
  readonly mask: string | null;
  /** What stays the same however the container is coded. */
  readonly contentDigest: string | null;
  readonly baseDigest: string;
  readonly matrices: number;
}

export function addExport(program: Command): void {
  program
    .command('export')
    .summary('write a task in a format that others read')
    .description(
      'Write a mask as MaskLLM publishes its masks (npz), the masked model as a Hugging Face checkpoint with zeros in place (dense) or ' +
        "in compressed-tensors' legacy 2:4 layout (bitmask), or the model, dense or masked, as ONNX in fp32 (onnx).",
    )
    .addOption(new Option('--format <format>', 'what to write').choices(FORMATS).makeOptionMandatory())
    .requiredOption('-o, --out <path>', 'npz: the file; others: the directory to make')
    .option('--model <dir>', `Hugging Face directory of the model (default: ${DEFAULT_MODEL})`)
    .option('--task <name>', 'the mask that comes with the model under this name')
    .option('--mask <file>', 'this mask file')
    .addOption(parentOption('--task or --mask'))
    .option('--no-cache', 'onnx: no past keys and values, from input_ids to logits alone')
    .addOption(
      new Option('--logits <which>', 'onnx: of all positions, or of the last').choices(['all', 'last']).default('all'),
    )
    .addHelpText('after', EXAMPLES)
    .action(async (_options: object, command: Command) => {
      await exportTask(command.optsWithGlobals<ExportOptions>());
    });
}

const EXAMPLES = `
Examples:
  $ maskctl export --format npz --task french --out mask_compressed.npz
  $ maskctl export --format dense --mask french.mask --model models/llama --out llama-french
  $ maskctl export --format onnx --out tiny-onnx
  $ maskctl export --format onnx --task general --no-cache --out tiny-general-onnx

${MODEL_FILE} takes input_ids (batch, tokens) and past_key_values.N.key and .value (batch, kv heads, past, head size; past is 0 at first) and gives
logits and present.N.key and .value; its weights are in ${DATA_FILE} beside it.`;

async function exportTask(options: ExportOptions): Promise<void> {
  await check(options);
  const { format, out, json } = options;
  const base = openBase(options.model);
  const mask = chosenMask(options, base);
  try {
    await withProgress('writing', (progress) => write(options, base, mask, progress));
    const exported: Exported = {
      format,
      out,
      bytes: sizeOf(out),
      mask: mask?.digest ?? null,
      contentDigest: mask?.summary.content ?? null,
      baseDigest: base.digest(),
      matrices: mask?.summary.tensors.length ?? 0,
    };
    if (json) printJson(exported);
    else printForPeople(exported, mask);
  } finally {
    mask?.close();
  }
}

/** All that can be refused before anything is read. */
async function check({ format, out, task, mask }: ExportOptions): Promise<void> {
  if (task !== undefined && mask !== undefined) throw new UsageError('expected --task or --mask, but received both');
  if (format !== 'onnx' && (mask ?? task ?? DENSE_TASK) === DENSE_TASK) {
    throw new UsageError(`expected --task NAME or --mask FILE: ${format} is of a mask`);
  }
  if (format === 'npz') await checkWritable(out);
  else checkNewDirectory(out);
}

function chosenMask({ task, mask, parent }: ExportOptions, base: BaseModel): ChosenMask | undefined {
  if (mask !== undefined) return openChosenMask(mask, base, parent);
  if (task === undefined || task === DENSE_TASK) return undefined;
  return openChosenMask(maskPath(base.directory, task), base, parent);
}

async function write(
  options: ExportOptions,
  base: BaseModel,
  mask: ChosenMask | undefined,
  progress: Progress,
): Promise<void> {
  const { format, out } = options;
  const onProgress = (done: number, of: number): void => progress.update(done, of);
  if (mask === undefined || format === 'onnx') {
    await writeNewDirectory(out, (directory) => exportOnnx(directory, base, mask, options, onProgress));
  } else if (format === 'npz') {
    await writeNewFile(out, npzOf(base, mask, onProgress));
  } else {
    const fill = format === 'dense' ? exportDense : exportBitmask;
    await writeNewDirectory(out, (directory) => fill(directory, base, mask, onProgress));
  }
}

/** Bytes of the file, or of the files of the directory. */
function sizeOf(out: string): number {
  const found = statSync(out);
  if (!found.isDirectory()) return found.size;
  return readdirSync(out).reduce((sum, name) => sum + statSync(join(out, name)).size, 0);
}

function printForPeople({ format, out, bytes, baseDigest, matrices }: Exported, mask: ChosenMask | undefined): void {
  printFields([
    ['wrote', out],
    ['format', format],
    ['bytes', formatCount(bytes)],
    ['mask', mask === undefined ? 'none (dense)' : `${mask.digest}, ${matrices} matrices`],
    ['base', baseDigest],
  ]);
}
