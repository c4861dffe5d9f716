/** What autotuning measured, kept from one start to the next: by the machine that it holds for, and by shape. */
import { cpus } from 'node:os';
import { native } from '../../kernels/index.js';
import { CacheFile } from './cache-file.js';
import { LONG_PROMPT } from './panel-tokens.js';

/** From how many tokens on panels pay, by shape ("rows x cols"). */
export type Choices = ReadonlyMap<string, number>;

/** `{"<machine>": {"<shape>": tokens}}`; what is not of that form counts as not measured. */
const file = (): CacheFile => new CacheFile('autotune.json');

/** Those kept for this machine. */
export function keptChoices(): Choices {
  const kept = machines()[thisMachine()];
  return new Map(isRecord(kept) ? Object.entries(kept).filter(isChoice) : []);
}

/** Adds to what is kept. Of two processes that do so at the same moment, one's may be lost: it measures again. */
export function keepChoices(choices: Choices): void {
  const all = { ...machines(), [thisMachine()]: Object.fromEntries([...keptChoices(), ...choices]) };
  file().write(`${JSON.stringify(all, null, 2)}\n`);
}

/** All that a measurement depends on besides the shape. */
function thisMachine(): string {
  const { isa, threads, abiVersion } = native.info();
  return [cpus()[0]?.model ?? 'unknown processor', isa, `${threads} threads`, `kernels ${abiVersion}`].join(', ');
}

function machines(): Record<string, unknown> {
  try {
    const all: unknown = JSON.parse(file().read() ?? '{}');
    return isRecord(all) ? all : {};
  } catch {
    return {};
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isChoice(entry: [string, unknown]): entry is [string, number] {
  const [, tokens] = entry;
  return Number.isInteger(tokens) && (tokens as number) >= 1 && (tokens as number) <= LONG_PROMPT;
}
