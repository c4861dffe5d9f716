/** What the text of an option means: a value, or a ConfigError that says what was expected of which option and what came. */
import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';

/** A mistake in the command line: one line, exit code 2. */
export class ConfigError extends Error {}

const KIB = 1024;

export function text(value: string, name: string): string {
  if (value === '') throw new ConfigError(`expected a value for ${name} but received none`);
  return value;
}

export function path(value: string, name: string): string {
  return resolve(text(value, name));
}

export function directory(value: string, name: string): string {
  const found = path(value, name);
  if (!existsSync(found)) throw new ConfigError(`expected a directory for ${name} but there is nothing at ${found}`);
  if (!statSync(found).isDirectory()) throw new ConfigError(`expected a directory for ${name} but ${found} is a file`);
  return found;
}

export function file(value: string, name: string): string {
  const found = path(value, name);
  if (!existsSync(found)) throw new ConfigError(`expected a file for ${name} but there is nothing at ${found}`);
  return found;
}

export function integer(from: number, to: number): (value: string, name: string) => number {
  return (value, name) => {
    const number = /^\d+$/.test(value) ? Number(value) : NaN;
    if (number >= from && number <= to) return number;
    throw new ConfigError(`expected a whole number from ${from} to ${to} for ${name} but received "${value}"`);
  };
}

/** `512M` → 536870912. */
export function byteCount(value: string, name: string): number {
  const match = /^(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?$/i.exec(value);
  const bytes = match ? Math.floor(Number(match[1]) * KIB ** ' KMGT'.indexOf((match[2] || ' ').toUpperCase())) : 0;
  if (bytes >= 1 && bytes <= Number.MAX_SAFE_INTEGER) return bytes;
  throw new ConfigError(`expected a number of bytes such as 512M or 2G for ${name} but received "${value}"`);
}

export function byteCountOrNone(value: string, name: string): number {
  return value === '0' ? 0 : byteCount(value, name);
}

export function origin(value: string, name: string): string {
  try {
    const url = new URL(value);
    if (/^https?:$/.test(url.protocol) && url.origin === value.replace(/\/$/, '')) return url.origin;
  } catch {
    // Not a URL at all: the same sentence.
  }
  throw new ConfigError(`expected an origin such as https://app.example for ${name} but received "${value}"`);
}

export function oneOf<T extends string>(known: readonly T[]): (value: string, name: string) => T {
  return (value, name) => {
    const found = known.find((candidate) => candidate === value);
    if (found) return found;
    throw new ConfigError(`expected one of ${known.join(', ')} for ${name} but received "${value}"`);
  };
}
