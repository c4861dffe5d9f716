/** The options of commands that turn text into tokens themselves: `eval` and `prune`. */
import { Option, type Command } from 'commander';
import { integer } from './numbers.js';
import { DEFAULT_MODEL } from './package-root.js';

/** Tokens of a window: what the published perplexities use, and one chunk of the engine. */
export const WINDOW_TOKENS = 256;

/** As `maskserve --backend` takes them. */
const BACKENDS = ['cpu', 'cuda', 'auto'] as const;

export interface TextOptions {
  readonly model?: string;
  readonly threads?: number;
  /** undefined: the CPU. */
  readonly backend?: (typeof BACKENDS)[number];
  /** Token after each document; undefined: the model's EOS. */
  readonly separator?: number;
  readonly bos: boolean;
}

export function addTextOptions(command: Command): Command {
  return command
    .option('--model <dir>', `Hugging Face directory of the model (default: ${DEFAULT_MODEL})`)
    .option('--threads <n>', 'threads to compute with (default: all cores)', integer(1, 1024))
    .addOption(
      new Option(
        '--backend <name>',
        'where to compute (default: cpu); auto: a GPU where its backend works, "maskctl doctor" says what was found',
      ).choices(BACKENDS),
    )
    .option('--separator <id>', "token id after each document (default: the model's end-of-text token)", integer(0))
    .option('--no-bos', 'add no begin-of-text token to each document, even if the tokenizer has one');
}
