/**
 * One server process a store. The lock is a file that names its owner: where it runs (host, boot, pid namespace), its pid and when that
 * pid started, so that a pid used again by another process is not taken for the owner. The owner touches the file every two seconds.
 *
 * An owner on the same host, boot and pid namespace is looked up: alive, the store is refused; dead (SIGKILL leaves the file behind), the lock
 * is taken over at once. An owner elsewhere (another container or host on a shared volume, or before a reboot) can't be looked up,
 * so the file is watched: touched within the watch, the store is refused; untouched, the lock is taken over.
 * `link` makes the file appear whole or not at all and never replaces one. An owner that finds its file replaced is told so.
 */
import { randomUUID } from 'node:crypto';
import { link, readFile, readlink, rename, stat, unlink, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorCode } from './file-system.js';

const TOUCH_MS = 2000;
/** Three touches and a little. */
const WATCH_MS = 7000;

interface Owner {
  /** Host, boot and pid namespace: within one place a pid means one thing. */
  readonly place: string;
  readonly host: string;
  readonly pid: number;
  /** When the pid started, in clock ticks since boot; '' where the system doesn't say. */
  readonly started: string;
  /** Differs for each time the lock is taken. */
  readonly nonce: string;
}

export interface StoreLock {
  release(): Promise<void>;
}

export interface LockOptions {
  readonly log: (line: string) => void;
  /** Called once if the lock turns out to be somebody else's or gone. */
  readonly onLost: (reason: string) => void;
  readonly touchMs?: number;
  readonly watchMs?: number;
}

/** Takes the lock of `directory`. Throws one line that names the owner if another process has it. */
export async function lockStore(directory: string, options: LockOptions): Promise<StoreLock> {
  const file = join(directory, 'lock');
  const self = await describeSelf();
  for (;;) {
    if (await tryCreate(file, self)) break;
    const found = await readOwner(file);
    if (found === undefined) continue;
    if (await isAlive(file, found, self, options)) {
      throw new Error(
        `the store ${directory} is in use by pid ${found.owner?.pid ?? 'unknown'} on ${found.owner?.host ?? 'an unknown host'}: ` +
          'stop that server or choose another directory with --store',
      );
    }
    options.log(
      `taking over the store ${directory} from pid ${found.owner?.pid ?? 'unknown'}, which ended without closing it`,
    );
    await takeAway(file, found.text, self);
  }
  return keep(file, self, options);
}

interface FoundLock {
  readonly text: string;
  /** Undefined for a file that is no lock of ours. */
  readonly owner: Owner | undefined;
}

/** True if the lock file was made, with its whole content at once. */
async function tryCreate(file: string, self: Owner): Promise<boolean> {
  const own = `${file}.${self.nonce}`;
  await writeFile(own, JSON.stringify(self));
  try {
    await link(own, file);
    return true;
  } catch (error) {
    if (errorCode(error) === 'EEXIST') return false;
    throw error;
  } finally {
    await unlink(own);
  }
}

async function readOwner(file: string): Promise<FoundLock | undefined> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  return { text, owner: parseOwner(text) };
}

function parseOwner(text: string): Owner | undefined {
  try {
    const owner: unknown = JSON.parse(text);
    return isOwner(owner) ? owner : undefined;
  } catch {
    return undefined;
  }
}

function isOwner(value: unknown): value is Owner {
  if (typeof value !== 'object' || value === null) return false;
  const { place, host, pid, started, nonce } = value as Record<string, unknown>;
  return [place, host, started, nonce].every((text) => typeof text === 'string') && Number.isInteger(pid);
}

async function isAlive(file: string, { owner }: FoundLock, self: Owner, options: LockOptions): Promise<boolean> {
  if (owner?.place === self.place) return (await startOf(owner.pid)) === owner.started;
  const watchMs = options.watchMs ?? WATCH_MS;
  options.log(
    `the store was last held by pid ${owner?.pid ?? 'unknown'} on ${owner?.host ?? 'an unknown host'}: ` +
      `waiting ${watchMs / 1000} s to see whether it is still alive`,
  );
  const before = await touchedAt(file);
  await sleep(watchMs);
  return (await touchedAt(file)) !== before;
}

async function touchedAt(file: string): Promise<number> {
  return stat(file).then(
    ({ mtimeMs }) => mtimeMs,
    () => 0,
  );
}

/**
 * Removes the stale lock. Between reading and renaming somebody else may have taken it over: then what was renamed is alive and is put
 * back, unless a third process was quicker still, which its owner notices at its next touch.
 */
async function takeAway(file: string, stale: string, self: Owner): Promise<void> {
  const aside = `${file}.stale.${self.nonce}`;
  try {
    await rename(file, aside);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return;
    throw error;
  }
  if ((await readFile(aside, 'utf8')) !== stale) {
    await link(aside, file).catch((error: unknown) => {
      if (errorCode(error) !== 'EEXIST') throw error;
    });
  }
  await unlink(aside);
}

function keep(file: string, self: Owner, options: LockOptions): StoreLock {
  let touching = Promise.resolve();
  const touch = async (): Promise<void> => {
    const found = await readOwner(file);
    if (found?.owner?.nonce === self.nonce) return utimes(file, new Date(), new Date());
    clearInterval(timer);
    const now = found?.owner ? `pid ${found.owner.pid} on ${found.owner.host} has taken it` : `${file} is gone`;
    options.onLost(`lost the lock on the store: ${now}`);
  };
  const timer = setInterval(() => {
    // A touch that fails (a full table of open files) is made up for by the next one.
    touching = touch().catch((error: unknown) => options.log(`could not touch ${file}: ${String(error)}`));
  }, options.touchMs ?? TOUCH_MS);
  timer.unref();
  return {
    release: async () => {
      clearInterval(timer);
      await touching;
      if ((await readOwner(file))?.owner?.nonce === self.nonce) await unlink(file);
    },
  };
}

async function describeSelf(): Promise<Owner> {
  const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '');
  const namespace = await readlink('/proc/self/ns/pid').catch(() => '');
  return {
    place: [hostname(), boot.trim(), namespace].join(' '),
    host: hostname(),
    pid: process.pid,
    started: (await startOf(process.pid)) ?? '',
    nonce: randomUUID(),
  };
}

/** When a running process started (proc(5), field 22 of stat); '' if it runs but the system doesn't say; undefined if there is none. */
async function startOf(pid: number): Promise<string | undefined> {
  try {
    const fields = await readFile(`/proc/${pid}/stat`, 'latin1');
    // The command's name, in parentheses, may hold spaces and parentheses itself; the state follows it.
    const [state, ...rest] = fields.slice(fields.lastIndexOf(')') + 2).split(' ');
    return state === 'Z' || state === 'X' ? undefined : rest[18];
  } catch {
    return isRunning(pid) ? '' : undefined;
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it runs, as somebody else.
    return errorCode(error) === 'EPERM';
  }
}
