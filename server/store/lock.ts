/**
 * One server process a store. Whoever wants it first puts down a claim, a file whose name says who claims (where, pid, when that pid
 * started), then looks at the other claims. A dead claimer's file (SIGKILL leaves it behind) is deleted; a living claimer's means that
 * the store is in use, and the own claim is taken back. Of two claims the later one is put down before its owner looks, so at most one of them
 * sees no other: there is never more than one holder. If two newcomers see each other both step back and try again after a random pause.
 * Names are unique and never used again, so deleting a dead claim can't hit a live one.
 *
 * A claimer on the same host, boot and pid namespace is looked up by pid and start time, so that a pid used again is not mistaken for it. One from
 * elsewhere (another container or host on a shared volume, or before a reboot) can't be looked up: its file is watched, which a
 * living owner touches every two seconds.
 */
import { createHash, randomBytes } from 'node:crypto';
import { readdir, readFile, readlink, stat, unlink, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorCode } from './file-system.js';

const TOUCH_MS = 2000;
/** Three touches and a little. */
const WATCH_MS = 7000;
/** Tries, in case it is only another newcomer that steps back as well. */
const TRIES = 6;
const PAUSE_MS = 40;

export interface StoreLock {
  release(): Promise<void>;
}

export interface LockOptions {
  readonly log: (line: string) => void;
  /** Called once if the claim is deleted under its holder. */
  readonly onLost: (reason: string) => void;
  readonly touchMs?: number;
  readonly watchMs?: number;
}

interface Claim {
  readonly file: string;
  /** Digest of host, boot and pid namespace: within one place a pid means one thing. */
  readonly place: string;
  readonly pid: number;
  /** When the pid started, in clock ticks since boot; 0 where the system doesn't say. */
  readonly started: string;
}

/** Claims `directory`. Throws one line that names the holder if another process, or this one, has it. */
export async function lockStore(directory: string, options: LockOptions): Promise<StoreLock> {
  const place = await placeOfThisProcess();
  for (let tries = 1; ; tries++) {
    const own = await putDown(directory, place);
    const lock = hold(own.file, options);
    let holder: Claim | undefined;
    try {
      holder = await findLivingClaim(directory, own, options);
    } catch (error) {
      await lock.release();
      throw error;
    }
    if (!holder) return lock;
    await lock.release();
    if (tries === TRIES || holder.place !== place) throw await inUse(directory, holder);
    await sleep(PAUSE_MS * Math.random());
  }
}

async function putDown(directory: string, place: string): Promise<Claim> {
  const started = (await startOf(process.pid)) ?? '0';
  const file = join(directory, `lock.${place}.${process.pid}.${started}.${randomBytes(6).toString('hex')}`);
  await writeFile(file, `${hostname()}\n`, { flag: 'wx' });
  return { file, place, pid: process.pid, started };
}

/** The first claim besides one's own whose owner lives. Claims of the dead are deleted on the way. */
async function findLivingClaim(directory: string, own: Claim, options: LockOptions): Promise<Claim | undefined> {
  for (const claim of await readClaims(directory)) {
    if (claim.file === own.file) continue;
    if (await isAlive(claim, own, options)) return claim;
    options.log(`taking over the store from pid ${claim.pid}, which ended without closing it`);
    await unlink(claim.file).catch(unlessMissing);
  }
  return undefined;
}

async function readClaims(directory: string): Promise<Claim[]> {
  const claims: Claim[] = [];
  for (const name of await readdir(directory)) {
    const [, place, pid, started] = /^lock\.([0-9a-f]+)\.([0-9]+)\.([0-9]+)\.[0-9a-f]+$/.exec(name) ?? [];
    if (place && pid && started) claims.push({ file: join(directory, name), place, pid: Number(pid), started });
  }
  return claims;
}

async function isAlive(claim: Claim, own: Claim, options: LockOptions): Promise<boolean> {
  if (claim.place === own.place) return (await startOf(claim.pid)) === claim.started;
  const watchMs = options.watchMs ?? WATCH_MS;
  options.log(
    `the store was last held by pid ${claim.pid} on ${await hostOf(claim)}: waiting ${watchMs / 1000} s to see whether it is still alive`,
  );
  const before = await touchedAt(claim.file);
  await sleep(watchMs);
  const after = await touchedAt(claim.file);
  return after !== undefined && after !== before;
}

/** Touches a claim until it is released. */
function hold(file: string, options: LockOptions): StoreLock {
  let released = false;
  const touch = async (): Promise<void> => {
    try {
      await utimes(file, new Date(), new Date());
    } catch (error) {
      // Anything but a missing file (a full table of open files) is made up for by the next touch.
      if (errorCode(error) !== 'ENOENT' || released) return;
      clearInterval(timer);
      options.onLost(`its lock ${file} was deleted`);
    }
  };
  const timer = setInterval(() => void touch(), options.touchMs ?? TOUCH_MS);
  timer.unref();
  return {
    release: async () => {
      released = true;
      clearInterval(timer);
      await unlink(file).catch(unlessMissing);
    },
  };
}

async function inUse(directory: string, holder: Claim): Promise<Error> {
  return new Error(
    `the store ${directory} is in use by pid ${holder.pid} on ${await hostOf(holder)}: ` +
      'stop that server or choose another directory with --store',
  );
}

async function hostOf(claim: Claim): Promise<string> {
  const host = await readFile(claim.file, 'utf8').catch(() => '');
  return host.trim() || 'an unknown host';
}

async function touchedAt(file: string): Promise<number | undefined> {
  return stat(file).then(
    ({ mtimeMs }) => mtimeMs,
    () => undefined,
  );
}

async function placeOfThisProcess(): Promise<string> {
  const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '');
  const namespace = await readlink('/proc/self/ns/pid').catch(() => '');
  const place = [hostname(), boot.trim(), namespace].join(' ');
  return createHash('sha256').update(place).digest('hex').slice(0, 16);
}

/** When a running process started (proc(5), field 22 of stat); '0' if it runs but the system doesn't say; undefined if there is none. */
async function startOf(pid: number): Promise<string | undefined> {
  try {
    const fields = await readFile(`/proc/${pid}/stat`, 'latin1');
    // The command's name, in parentheses, may hold spaces and parentheses itself; the state follows it.
    const [state, ...rest] = fields.slice(fields.lastIndexOf(')') + 2).split(' ');
    return state === 'Z' || state === 'X' ? undefined : rest[18];
  } catch {
    return isRunning(pid) ? '0' : undefined;
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

function unlessMissing(error: unknown): void {
  if (errorCode(error) !== 'ENOENT') throw error;
}
