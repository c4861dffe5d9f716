/** `maskctl pull TASK`: downloads a mask as it was published, or flattened. */
import { createHash } from 'node:crypto';
import type { Command } from 'commander';
import type { MaskDownload } from '../../sdk/index.js';
import { connect } from '../connection.js';
import { UsageError } from '../usage-error.js';
import type { GlobalOptions } from '../global-options.js';
import { checkWritable, writeNewFile } from '../new-file.js';
import { formatCount, printJson, printLine, shortDigest } from '../output.js';
import { type Progress, withProgress } from '../progress.js';
import { wholeDigest } from '../versions.js';

interface PullOptions {
  readonly out?: string;
  readonly version?: string;
  readonly flatten?: true;
}

const STDOUT = '-';

export function addPull(program: Command): void {
  program
    .command('pull')
    .summary('download the mask of a task')
    .description('Download the mask of a task and compare its digest. A file is written whole or not at all.')
    .argument('<task>')
    .option('-o, --out <file>', 'where to write it; "-" for stdout (default: TASK.mask)')
    .option('--version <digest>', 'another version than the current one')
    .option('--flatten', 'a mask that is coded against its parent as one that decodes by itself')
    .addHelpText('after', EXAMPLES)
    .action(async (task: string, _options: object, command: Command) => {
      await pull(task, command.optsWithGlobals<PullOptions & GlobalOptions>());
    });
}

const EXAMPLES = `
Examples:
  $ maskctl pull french
  $ maskctl pull french --version 3f9a52c01b7e -o older.mask
  $ maskctl pull french --flatten -o anywhere.mask`;

async function pull(task: string, options: PullOptions & GlobalOptions): Promise<void> {
  const { out = `${task}.mask`, version, flatten = false, json } = options;
  if (out === STDOUT && json) throw new UsageError('expected either --out - or --json: both go to stdout');
  if (out !== STDOUT) await checkWritable(out);
  const client = connect(options);
  const digest = version === undefined ? undefined : await wholeDigest(client, task, version, '--version');
  const download = await client.masks.download(digest === undefined ? task : `${task}@sha256:${digest}`, { flatten });
  await withProgress('downloading', async (progress) => {
    const bytes = verified(download, progress);
    if (out !== STDOUT) await writeNewFile(out, bytes);
    else for await (const chunk of bytes) process.stdout.write(chunk);
  });
  const { version: from } = download;
  if (json) printJson({ task, file: out, digest: download.digest, version: from, bytes: download.bytes });
  else if (out !== STDOUT) {
    const flattened = from === download.digest ? '' : `flattened from version ${shortDigest(from)}, `;
    printLine(
      `${out}: ${task}, ${flattened}digest ${shortDigest(download.digest)}, ${formatCount(download.bytes)} bytes`,
    );
  }
}

/** Passes the bytes on; throws at their end if they are not those that the server named. */
async function* verified({ digest, bytes, stream }: MaskDownload, progress: Progress): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  let received = 0;
  for await (const chunk of stream) {
    hash.update(chunk);
    progress.update((received += chunk.length), bytes);
    yield chunk;
  }
  const computed = hash.digest('hex');
  if (computed === digest) return;
  throw new Error(
    `expected ${bytes} bytes with the digest ${digest} but received ${received} with ${computed}: try again`,
  );
}
