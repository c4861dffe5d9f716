/** `maskctl rollback TASK`: an earlier version becomes the current one. */
import type { Command } from 'commander';
import { connect } from '../connection.js';
import type { GlobalOptions } from '../global-options.js';
import { formatTime, printJson, printLine, shortDigest } from '../output.js';
import { wholeDigest } from '../versions.js';

interface RollbackOptions {
  readonly to?: string;
}

export function addRollback(program: Command): void {
  program
    .command('rollback')
    .summary('make an earlier version of a task the current one')
    .description(
      'Make an earlier version of a task the current one. Requests that run now end with the one they started with.',
    )
    .argument('<task>')
    .option('--to <digest>', 'which version (default: the one before the current)')
    .addHelpText('after', EXAMPLES)
    .action(async (task: string, _options: object, command: Command) => {
      const options = command.optsWithGlobals<RollbackOptions & GlobalOptions>();
      const client = connect(options);
      const { to } = options;
      const mask = await client.masks.rollback(
        task,
        to === undefined ? {} : { to: await wholeDigest(client, task, to, '--to') },
      );
      if (options.json) printJson(mask);
      else printLine(`${task}: now ${shortDigest(mask.digest)}, published ${formatTime(mask.published_at)}`);
    });
}

const EXAMPLES = `
Examples:
  $ maskctl rollback french
  $ maskctl rollback french --to 3f9a52c01b7e`;
