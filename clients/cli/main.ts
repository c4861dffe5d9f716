#!/usr/bin/env node
/** maskctl: wires the commands, turns every failure into one line and an exit code. */
import { Command } from 'commander';
import { addComplete } from './commands/complete.js';
import { addDiff } from './commands/diff.js';
import { addDoctor } from './commands/doctor.js';
import { addEval } from './commands/eval.js';
import { addExport } from './commands/export.js';
import { addImport } from './commands/import.js';
import { addInspect } from './commands/inspect.js';
import { addPrepare } from './commands/prepare.js';
import { addPrune } from './commands/prune.js';
import { addPull } from './commands/pull.js';
import { addPush } from './commands/push.js';
import { addRm } from './commands/rm.js';
import { addRollback } from './commands/rollback.js';
import { addSensitivity } from './commands/sensitivity.js';
import { addTasks } from './commands/tasks.js';
import { addTrain } from './commands/train.js';
import { addVersions } from './commands/versions.js';
import { EXIT_USAGE, oneLine, report, watchStdout } from './failure.js';
import { addGlobalOptions } from './global-options.js';
import { printLine } from './output.js';
import { packageVersion } from './package-root.js';

const HELP = `
maskctl COMMAND --help shows the options and examples of a command; maskctl --version prints the version.`;

const COMMANDS = [
  addComplete,
  addTasks,
  addPush,
  addPull,
  addRm,
  addVersions,
  addRollback,
  addInspect,
  addDiff,
  addEval,
  addPrune,
  addPrepare,
  addTrain,
  addSensitivity,
  addImport,
  addExport,
  addDoctor,
];

async function main(): Promise<number> {
  const program = new Command('maskctl')
    .description('Complete, publish, inspect, make and evaluate the 2:4 masks that maskserve serves.')
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({ outputError: (text, write) => write(`maskctl: ${oneLine(text.replace(/^error: /, ''))}\n`) })
    .exitOverride();
  addGlobalOptions(program);
  for (const add of COMMANDS) add(program);
  program.addHelpText('after', HELP);
  try {
    if (process.argv.length <= 2) {
      program.outputHelp({ error: true });
      return EXIT_USAGE;
    }
    // By hand, because commander would take `pull --version DIGEST` for it.
    if (process.argv[2] === '-V' || process.argv[2] === '--version') printLine(packageVersion());
    else await program.parseAsync();
    return 0;
  } catch (error) {
    return report(error);
  }
}

watchStdout();
process.exitCode = await main();
