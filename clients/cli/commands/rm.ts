/** `maskctl rm TASK`: removes a task and its versions from the server. */
import type { Command } from 'commander';
import { connect } from '../connection.js';
import type { GlobalOptions } from '../global-options.js';
import { printJson, printLine } from '../output.js';
import { wholeDigest } from '../versions.js';

interface RmOptions {
  readonly ifMatch?: string;
}

export function addRm(program: Command): void {
  program
    .command('rm')
    .summary('remove a task and all its versions')
    .description('Remove a task and all its versions. A task of that name that came with the model comes back.')
    .argument('<task>')
    .option('--if-match <digest>', 'only if this is the current version')
    .addHelpText('after', EXAMPLES)
    .action(async (task: string, _options: object, command: Command) => {
      const options = command.optsWithGlobals<RmOptions & GlobalOptions>();
      const client = connect(options);
      const { ifMatch } = options;
      await client.masks.remove(
        task,
        ifMatch === undefined ? {} : { ifMatch: await wholeDigest(client, task, ifMatch, '--if-match') },
      );
      if (options.json) printJson({ task, removed: true });
      else printLine(`${task}: removed`);
    });
}

const EXAMPLES = `
Examples:
  $ maskctl rm french
  $ maskctl rm french --if-match 3f9a52c01b7e`;
