/** Long work that Ctrl-C ends in an orderly way: the first signal asks, the second ends the process. */

const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;

type Stop = keyof typeof EXIT_CODES;

export class Stopper {
  private readonly controller = new AbortController();
  private received: Stop | undefined;
  private listening = false;
  private readonly listeners = (Object.keys(EXIT_CODES) as Stop[]).map(
    (name) => [name, () => this.receive(name)] as const,
  );

  /** `onFirst` runs when the first signal comes. */
  constructor(private readonly onFirst: () => void) {}

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** What a shell should see after the signal that was received. */
  get exitCode(): number {
    return EXIT_CODES[this.received ?? 'SIGINT'];
  }

  /** From here on. Before, a signal ends the process at once, which is right while nothing is worth saving and this thread is blocked. */
  listen(): void {
    if (this.listening) return;
    this.listening = true;
    for (const [name, listener] of this.listeners) process.on(name, listener);
  }

  dispose(): void {
    this.listening = false;
    for (const [name, listener] of this.listeners) process.off(name, listener);
  }

  private receive(name: Stop): void {
    if (this.received) process.exit(EXIT_CODES[name]);
    this.received = name;
    this.onFirst();
    this.controller.abort();
  }
}

/** This command line again, as one would type it, with more options. */
export function sameCommand(...more: readonly string[]): string {
  return ['maskctl', ...withoutResume(process.argv.slice(2)), ...more].map(quoted).join(' ');
}

function withoutResume(args: readonly string[]): string[] {
  return args.filter((arg, i) => arg !== '--resume' && args[i - 1] !== '--resume' && !arg.startsWith('--resume='));
}

function quoted(argument: string): string {
  return /^[\w@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", `'\\''`)}'`;
}
