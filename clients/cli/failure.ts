/** How a command fails: one line on stderr, exit 1 for what went wrong at run time, 2 for a command line that can't be run. */
import { CommanderError } from 'commander';
import { MaskServeError } from '../sdk/index.js';
import { explain } from './connection.js';
import { UsageError } from './usage-error.js';

export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;

/** Prints what went wrong and returns the exit code. Help and --version also end here, with 0. */
export function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE; // commander has printed it
  process.stderr.write(`maskctl: ${oneLine(sentence(error))}\n`);
  return error instanceof UsageError ? EXIT_USAGE : EXIT_FAILED;
}

/**
 * A reader that goes away (`maskctl tasks | head -1`) has what it wanted: end quietly. Node ignores SIGPIPE and reports the broken
 * pipe as an 'error' event.
 */
export function watchStdout(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    process.stderr.write(`maskctl: can't write to stdout: ${error.message}\n`);
    process.exit(EXIT_FAILED);
  });
}

export function oneLine(text: string): string {
  return text.trim().replace(/\s*\n\s*/g, ' ');
}

function sentence(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error instanceof MaskServeError) return explain(error);
  const { code, path } = error as NodeJS.ErrnoException;
  if (path === undefined) return error.message;
  switch (code) {
    case 'ENOENT':
      return `expected a file at ${path}, but there is none`;
    case 'EISDIR':
      return `expected a file at ${path}, but it is a directory`;
    case 'EACCES':
    case 'EPERM':
      return `no permission for ${path}`;
    case 'ENOSPC':
      return `no space left on the disk of ${path}`;
    default:
      return error.message;
  }
}
