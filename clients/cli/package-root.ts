/** Where this package lies, whatever the output folder is called. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = new URL('../../../', import.meta.url);

/** The embedded default model's directory. */
export const DEFAULT_MODEL = fileURLToPath(new URL('models/tiny', root));

export function packageVersion(): string {
  const json = JSON.parse(readFileSync(new URL('package.json', root), 'utf8')) as { version: string };
  return json.version;
}
