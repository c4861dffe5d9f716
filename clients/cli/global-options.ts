/** The options that every command takes, before or after its name. */
import { type Command, Option } from 'commander';
import { UsageError } from './usage-error.js';

export const DEFAULT_SERVER = 'http://127.0.0.1:8080';

export interface GlobalOptions {
  readonly server: string;
  readonly key?: string;
  /** One JSON value on stdout, for machines. */
  readonly json?: true;
}

export function addGlobalOptions(program: Command): Command {
  return program
    .addOption(
      new Option('--server <url>', 'where maskserve runs')
        .env('MASKSERVE_URL')
        .default(DEFAULT_SERVER)
        .argParser(serverUrl),
    )
    .addOption(new Option('--key <key>', 'API key, where the server asks for one').env('MASKSERVE_API_KEY'))
    .option('--json', 'print one JSON value, for machines');
}

/** `host:port` is as good as `http://host:port`. */
function serverUrl(text: string): string {
  const url = parseUrl(text.includes('://') ? text : `http://${text}`);
  if (url && (url.protocol === 'http:' || url.protocol === 'https:')) return url.href.replace(/\/+$/, '');
  throw new UsageError(`expected --server (or MASKSERVE_URL) to be like ${DEFAULT_SERVER} but received ${text}`);
}

function parseUrl(text: string): URL | undefined {
  try {
    return new URL(text);
  } catch {
    return undefined;
  }
}
