/** `maskctl versions TASK`: what has been published under a name. */
import type { Command } from 'commander';
import { connect } from '../connection.js';
import type { GlobalOptions } from '../global-options.js';
import { formatTime, printJson, printTable } from '../output.js';

export function addVersions(program: Command): void {
  program
    .command('versions')
    .summary('list what was published under a task name')
    .description('List what was published under a task name, newest first. The starred version is served.')
    .argument('<task>')
    .addHelpText('after', EXAMPLES)
    .action(async (task: string, _options: object, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const versions = await connect(options).masks.versions(task);
      if (options.json) printJson(versions);
      else {
        printTable(
          ['', 'DIGEST', 'PUBLISHED'],
          versions.data.map(({ digest, published_at, current }) => [
            current ? '*' : '',
            digest,
            formatTime(published_at),
          ]),
        );
      }
    });
}

const EXAMPLES = `
Examples:
  $ maskctl versions french
  $ maskctl versions french --json | jq -r '.data[].digest'`;
