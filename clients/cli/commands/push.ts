/** `maskctl push TASK FILE`: publishes a mask file. */
import { openAsBlob } from 'node:fs';
import { type Command, Option } from 'commander';
import { connect, curlLine } from '../connection.js';
import type { GlobalOptions } from '../global-options.js';
import { readMaskHeader } from '../mask-file.js';
import { formatCount, printJson, printLine, shortDigest } from '../output.js';
import { type Progress, withProgress } from '../progress.js';
import { wholeDigest } from '../versions.js';

interface PushOptions {
  readonly ifMatch?: string;
  readonly ifAbsent?: true;
}

export function addPush(program: Command): void {
  program
    .command('push')
    .summary('publish a mask file under a task name')
    .description(
      'Publish a mask file. When this returns, it is on stable storage and the next request is served by it. A mask that is coded against its parent is refused where the server has no such parent.',
    )
    .argument('<task>', 'the name that clients ask for')
    .argument('<file>', 'a .mask file on this machine')
    .addOption(
      new Option(
        '--if-match <digest>',
        'only if this is the current version: nobody else published meanwhile',
      ).conflicts('ifAbsent'),
    )
    .option('--if-absent', 'only if there is no such task yet')
    .addHelpText('after', EXAMPLES)
    .action(async (task: string, file: string, _options: object, command: Command) => {
      await push(task, file, command.optsWithGlobals<PushOptions & GlobalOptions>());
    });
}

const EXAMPLES = `
Examples:
  $ maskctl push french french.mask
  $ maskctl push french better.mask --if-match 3f9a52c01b7e`;

async function push(task: string, file: string, options: PushOptions & GlobalOptions): Promise<void> {
  const { ifMatch, ifAbsent, json } = options;
  const client = connect(options);
  const { digest } = readMaskHeader(file);
  const condition = {
    ...(ifMatch === undefined ? {} : { ifMatch: await wholeDigest(client, task, ifMatch, '--if-match') }),
    ...(ifAbsent === undefined ? {} : { ifAbsent }),
  };
  const published = await withProgress('uploading', async (progress) =>
    client.masks.put(task, await watchedBlob(file, progress), { ...condition, digest }),
  );
  if (json) return printJson(published);
  const what = published.created ? 'a new task' : `version ${published.versions}`;
  printLine(`${published.task}: ${what}, digest ${shortDigest(digest)}, ${formatCount(published.bytes)} bytes`);
  printLine(`try it:\n  ${curlLine(options, task)}`);
}

/** A Blob keeps its length and can be sent again; fetch reads it through `stream`, so there its bytes are counted. */
async function watchedBlob(file: string, progress: Progress): Promise<Blob> {
  const blob = await openAsBlob(file);
  const open = blob.stream.bind(blob);
  const stream = (): ReadableStream<Uint8Array> => {
    let sent = 0;
    const counter = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        progress.update((sent += chunk.length), blob.size);
        controller.enqueue(chunk);
      },
    });
    return open().pipeThrough(counter);
  };
  return Object.defineProperty(blob, 'stream', { value: stream });
}
