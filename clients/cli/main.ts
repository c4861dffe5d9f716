#!/usr/bin/env node
/** maskctl: wires the commands, turns every failure into one line and an exit code. */
import { Command } from 'commander';
import { EXIT_USAGE, oneLine, report, watchStdout } from './failure.js';
import { addGlobalOptions } from './global-options.js';
import { printLine } from './output.js';
import { packageVersion } from './package-root.js';

const HELP = `
maskctl COMMAND --help shows the options and examples of a command; maskctl --version prints the version.`;

/** In the order of --help. A command's modules are loaded when it is called: the trainer is no part of `maskctl tasks`. */
const COMMANDS: Readonly<Record<string, () => Promise<(program: Command) => void>>> = {
  complete: async () => (await import('./commands/complete.js')).addComplete,
  tasks: async () => (await import('./commands/tasks.js')).addTasks,
  push: async () => (await import('./commands/push.js')).addPush,
  pull: async () => (await import('./commands/pull.js')).addPull,
  rm: async () => (await import('./commands/rm.js')).addRm,
  versions: async () => (await import('./commands/versions.js')).addVersions,
  rollback: async () => (await import('./commands/rollback.js')).addRollback,
  inspect: async () => (await import('./commands/inspect.js')).addInspect,
  diff: async () => (await import('./commands/diff.js')).addDiff,
  eval: async () => (await import('./commands/eval.js')).addEval,
  prune: async () => (await import('./commands/prune.js')).addPrune,
  prepare: async () => (await import('./commands/prepare.js')).addPrepare,
  train: async () => (await import('./commands/train.js')).addTrain,
  sensitivity: async () => (await import('./commands/sensitivity.js')).addSensitivity,
  import: async () => (await import('./commands/import.js')).addImport,
  export: async () => (await import('./commands/export.js')).addExport,
  doctor: async () => (await import('./commands/doctor.js')).addDoctor,
};

async function main(): Promise<number> {
  const program = new Command('maskctl')
    .description('Complete, publish, inspect, make and evaluate the 2:4 masks that maskserve serves.')
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({ outputError: (text, write) => write(`maskctl: ${oneLine(text.replace(/^error: /, ''))}\n`) })
    .exitOverride();
  addGlobalOptions(program);
  program.addHelpText('after', HELP);
  try {
    // By hand, because commander would take `pull --version DIGEST` for it.
    if (process.argv[2] === '-V' || process.argv[2] === '--version') {
      printLine(packageVersion());
      return 0;
    }
    for (const name of wanted(process.argv.slice(2))) (await COMMANDS[name]?.())?.(program);
    if (process.argv.length <= 2) {
      program.outputHelp({ error: true });
      return EXIT_USAGE;
    }
    await program.parseAsync();
    return 0;
  } catch (error) {
    return report(error);
  }
}

/** The commands that `args` may mean: every word that is one's name, or all of them, for help and for what commander takes a mistyped word for. */
function wanted(args: readonly string[]): readonly string[] {
  const named = args.filter((arg) => Object.hasOwn(COMMANDS, arg));
  const first = args.findIndex((arg) => Object.hasOwn(COMMANDS, arg));
  const help = args.slice(0, Math.max(first, 0)).some((arg) => arg === '-h' || arg === '--help');
  return named.length === 0 || help ? Object.keys(COMMANDS) : [...new Set(named)];
}

watchStdout();
process.exitCode = await main();
