/** `maskctl import`: masks that others made → a container, into a file or published under a task's name. */
import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { contentDigest } from '../../../codec/content-digest.js';
import { ContainerReader } from '../../../codec/decode.js';
import { encodeMaskSet } from '../../../codec/encode.js';
import type { MaskSet } from '../../../codec/mask-set.js';
import { weightsInFiles } from '../../../server/engine/weight-files.js';
import { checkOwnTaskName } from '../../../server/store/task-name.js';
import { checkServerBase, connect, curlLine } from '../connection.js';
import { UsageError } from '../usage-error.js';
import type { GlobalOptions } from '../global-options.js';
import { type BaseModel, openBase } from '../interchange/base-model.js';
import { importCheckpoint } from '../interchange/checkpoint-import.js';
import { maskPath } from '../interchange/chosen-mask.js';
import type { Imported } from '../interchange/imported.js';
import type { Completion } from '../interchange/kept-bits.js';
import { importNpz } from '../interchange/npz-import.js';
import { needsJson, needsText, parentOption, type NeedsJson } from '../mask-family.js';
import { readMaskSet } from '../mask-file.js';
import { checkWritable, writeNewFile } from '../new-file.js';
import { formatCount, printFields, printJson, printLine } from '../output.js';
import { DEFAULT_MODEL } from '../package-root.js';
import { type Progress, withProgress } from '../progress.js';

const NAMES_SHOWN = 7;

interface ImportOptions extends GlobalOptions {
  readonly model?: string;
  readonly from?: string;
  readonly parent?: string;
  readonly flat?: true;
  readonly complete?: 'magnitude';
  readonly out?: string;
  readonly task?: string;
}

/** What --json prints. */
interface Described {
  readonly source: string;
  readonly format: 'npz' | 'checkpoint';
  readonly file: string | null;
  readonly task: string | null;
  readonly digest: string;
  readonly contentDigest: string;
  readonly parent: string | null;
  /** What decoding takes beside the file. */
  readonly needs: NeedsJson;
  readonly baseDigest: string;
  /** Matrices that the mask covers. */
  readonly matrices: number;
  /** Those that the source leaves dense. */
  readonly dense: readonly string[];
  readonly groups: number;
  /** Groups with fewer than two kept weights, completed where the base is 0. */
  readonly completedAtZeros: number;
  readonly completedByMagnitude: number;
  readonly parameters: number;
  readonly bytes: number;
  readonly bitsPerParameter: number;
}

export function addImport(program: Command): void {
  program
    .command('import')
    .summary('make a mask file from masks or pruned weights of others')
    .description(
      "Read 2:4 masks that others made: MaskLLM's published masks (.npz), or a Hugging Face checkpoint whose linear weights are already 2:4 " +
        '(kept where they are not zero). The model is the one that they were made for; its weights must be the same.',
    )
    .argument('<source>', 'an .npz file, or the directory of a pruned model')
    .option('--model <dir>', `Hugging Face directory of the unpruned model (default: ${DEFAULT_MODEL})`)
    .option(
      '--from <mask>',
      'the mask that this one was learned from (a file, or a task that comes with the model), its parent: it is stored as a patch of that',
    )
    .addOption(parentOption('--from'))
    .option('--flat', 'write what decodes by itself: without parent and weights, and larger')
    .addOption(
      new Option(
        '--complete <how>',
        'groups that keep fewer than two weights, where the model has too few zeros to add: add the largest weights',
      ).choices(['magnitude']),
    )
    .option('-o, --out <file>', 'write the mask to this file')
    .option('--task <name>', 'publish the mask to the server under this name')
    .addHelpText('after', EXAMPLES)
    .action(async (source: string, _options: object, command: Command) => {
      await importMasks(source, command.optsWithGlobals<ImportOptions>());
    });
}

const EXAMPLES = `
Examples:
  $ maskctl import mask_compressed.npz --model models/Llama-2-7b-hf --out general.mask
  $ maskctl import models/llama-wanda-2of4 --model models/llama --out wanda.mask
  $ maskctl import french.npz --model models/llama --from general.mask --task french`;

async function importMasks(source: string, options: ImportOptions): Promise<void> {
  const format = await check(source, options);
  const base = openBase(options.model);
  const client = connect(options);
  if (options.task !== undefined) await checkServerBase(client, base.digest(), options);
  const { imported, container } = await withProgress('reading masks', (progress) => {
    const parent = parentSet(options, base);
    const completion: Completion = options.complete ?? 'zeros';
    const read = format === 'npz' ? importNpz : importCheckpoint;
    const imported = read(source, base, completion, (done, of) => progress.update(done, of));
    return { imported, container: encode(imported, base, parent, options, progress) };
  });
  if (options.out !== undefined) await writeNewFile(options.out, [container]);
  if (options.task !== undefined) await client.masks.put(options.task, container);
  const described = describe(source, format, imported, container, options);
  if (options.json) printJson(described);
  else printForPeople(described, options);
}

/** All that can be refused before the work. Returns what the source is. */
async function check(source: string, { out, task }: ImportOptions): Promise<'npz' | 'checkpoint'> {
  if (out === undefined && task === undefined) {
    throw new UsageError('expected --out FILE or --task NAME: where should the mask go?');
  }
  if (task !== undefined) checkOwnTaskName(task);
  if (out !== undefined) await checkWritable(out);
  const found = statSync(source, { throwIfNoEntry: false });
  if (found === undefined)
    throw new Error(`expected an .npz file or a model directory at ${source}, but there is none`);
  if (found.isDirectory()) return 'checkpoint';
  if (source.endsWith('.safetensors')) {
    throw new UsageError(
      `expected the directory of a pruned model, with its config.json, but received the file ${source}`,
    );
  }
  return 'npz';
}

function parentSet({ from, parent }: ImportOptions, base: BaseModel): MaskSet | undefined {
  if (from === undefined) return undefined;
  const near = { model: base.directory, expectBase: base.digest(), ...(parent === undefined ? {} : { parent }) };
  return readMaskSet(maskPath(base.directory, from), near);
}

/** Coded by the weights, and as a patch of its parent if it has one. */
function encode(
  { masks }: Imported,
  base: BaseModel,
  parent: MaskSet | undefined,
  { flat }: ImportOptions,
  progress: Progress,
): Uint8Array {
  progress.update(0, 0, 'encoding');
  const named = parent === undefined ? {} : { parent: contentDigest(parent) };
  const weights = weightsInFiles(base.directory);
  const context = flat ? {} : { weights, ...(parent === undefined ? {} : { parent }) };
  return encodeMaskSet({ n: 2, m: 4, base: base.digest(), ...named, masks }, { context });
}

function describe(
  source: string,
  format: Described['format'],
  { masks, dense, counts }: Imported,
  container: Uint8Array,
  { out, task }: ImportOptions,
): Described {
  const { content, base, parent, needs, parameters, fileBytes, bitsPerParameter } = new ContainerReader(container)
    .summary;
  const { groups, completedAtZeros, completedByMagnitude } = counts;
  return {
    source,
    format,
    file: out ?? null,
    task: task ?? null,
    digest: createHash('sha256').update(container).digest('hex'),
    contentDigest: content,
    parent: parent ?? null,
    needs: needsJson(needs),
    baseDigest: base,
    matrices: masks.length,
    dense,
    groups,
    completedAtZeros,
    completedByMagnitude,
    parameters,
    bytes: fileBytes,
    bitsPerParameter,
  };
}

function printForPeople(described: Described, options: ImportOptions): void {
  const { file, task, matrices, dense, groups, completedAtZeros, completedByMagnitude, bytes, bitsPerParameter } =
    described;
  const completed = [
    ...(completedAtZeros === 0 ? [] : [`${formatCount(completedAtZeros)} completed where the model is 0`]),
    ...(completedByMagnitude === 0 ? [] : [`${formatCount(completedByMagnitude)} completed by magnitude`]),
  ];
  printFields([
    ...(file === null ? [] : [['wrote', file] as const]),
    ...(task === null ? [] : [['published', `${task} at ${options.server}`] as const]),
    ['digest', described.digest],
    ...(described.parent === null ? [] : [['parent', described.parent] as const]),
    ['needs', needsText(described.needs, options.from)],
    ['matrices', dense.length === 0 ? String(matrices) : `${matrices}, left dense: ${someOf(dense)}`],
    ['groups', [formatCount(groups), ...completed].join(', ')],
    ['bytes', `${formatCount(bytes)} (${bitsPerParameter.toFixed(4)} bit per parameter)`],
  ]);
  printLine('try it:');
  if (task !== null) printLine(`  ${curlLine(options, task)}`);
  else printLine(`  maskctl push my-task ${file}`);
}

function someOf(names: readonly string[]): string {
  const shown = names.slice(0, NAMES_SHOWN).join(', ');
  return names.length <= NAMES_SHOWN ? shown : `${shown} and ${names.length - NAMES_SHOWN} more`;
}
