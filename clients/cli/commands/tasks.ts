/** `maskctl tasks`: what the server can be asked for. */
import type { Command } from 'commander';
import type { Mask } from '../../sdk/index.js';
import { connect } from '../connection.js';
import type { GlobalOptions } from '../global-options.js';
import { formatCount, formatTime, printJson, printLine, printTable, shortDigest } from '../output.js';

/** What --json prints of each task. Tier: where its weights are now; null where this key may not use it. */
type ListedTask = Mask & { readonly tier: string | null };

export function addTasks(program: Command): void {
  program
    .command('tasks')
    .alias('ls')
    .summary('list the tasks of the server')
    .description('List the tasks of the server. Beside them there is always "dense", the unmasked model.')
    .addHelpText('after', EXAMPLES)
    .action(async (_options: object, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const client = connect(options);
      const [masks, models] = await Promise.all([client.masks.list(), client.models()]);
      const tiers = new Map(models.map(({ task, residency }) => [task, residency.tier]));
      const tasks = masks.map((mask) => ({ ...mask, tier: tiers.get(mask.task) ?? null }));
      if (options.json) printJson(tasks);
      else if (tasks.length === 0) printLine('no tasks yet: publish one with "maskctl push TASK FILE"');
      else printForPeople(tasks);
    });
}

const EXAMPLES = `
Examples:
  $ maskctl tasks
  $ maskctl tasks --json | jq -r '.[].task'`;

function printForPeople(tasks: readonly ListedTask[]): void {
  printTable(
    ['TASK', 'DIGEST', 'PARENT', 'BYTES', 'TIER', 'PUBLISHED'],
    tasks.map((task) => [
      task.task,
      shortDigest(task.digest),
      parentOf(task, tasks),
      formatCount(task.bytes),
      task.tier ?? '-',
      task.shipped ? 'with the model' : formatTime(task.published_at),
    ]),
    ['BYTES'],
  );
}

/** The parent by its name, if a task of the list is that set; the first, where it was published again under others. */
function parentOf({ parent }: Mask, tasks: readonly ListedTask[]): string {
  if (parent === null) return '-';
  const since = ({ shipped, published_at }: ListedTask): string => (shipped ? '' : published_at);
  const same = tasks.filter(({ content }) => content === parent);
  return same.sort((a, b) => since(a).localeCompare(since(b)))[0]?.task ?? shortDigest(parent);
}
