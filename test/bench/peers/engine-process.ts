/** An engine's process, stopped (SIGSTOP) while it has nothing to do: threads that spin for more work would take the cores of the engine whose turn it is. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { TORCH_ENGINE } from './installed.js';
import type {
  EngineSettings,
  LayerAnswer,
  LayerRequest,
  LogitsAnswer,
  LogitsRequest,
  PassAnswer,
  PassRequest,
  Ready,
} from './protocol.js';

const ENGINE_MAIN = fileURLToPath(new URL('engine-main.js', import.meta.url));

/** A stopped process would not notice that nobody asks any more. */
const running = new Set<ChildProcessWithoutNullStreams>();
process.once('exit', () => running.forEach((child) => child.kill('SIGKILL')));

export class EngineProcess {
  private constructor(
    private readonly child: ChildProcessWithoutNullStreams,
    private readonly lines: AsyncIterator<string>,
    private readonly errors: () => string,
  ) {}

  /** Resolves when the engine has loaded its weights, to it and what it calls itself. Throws with the process's last line. */
  static async start(settings: EngineSettings, python?: string): Promise<{ engine: EngineProcess; name: string }> {
    const program =
      settings.kind === 'torch' ? [python as string, '-B', TORCH_ENGINE] : [process.execPath, ENGINE_MAIN];
    const env = { ...process.env, OMP_NUM_THREADS: String(settings.threads) };
    const child = spawn(program[0] as string, [...program.slice(1), JSON.stringify(settings)], { env });
    running.add(child);
    child.once('exit', () => running.delete(child));
    let errors = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (errors = (errors + text).slice(-4000)));
    child.on('error', (error) => (errors = error.message));
    child.stdin.on('error', () => undefined); // it has ended: the missing answer says so
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const engine = new EngineProcess(child, lines, () => errors.trim().split('\n').at(-1) ?? '');
    const { engine: name } = await engine.answer<Ready>();
    child.kill('SIGSTOP');
    return { engine, name };
  }

  pass(request: Omit<PassRequest, 'op'>): Promise<PassAnswer> {
    return this.ask<PassAnswer>({ op: 'pass', ...request } satisfies PassRequest);
  }

  /** Steps + 1 rows of V logits. */
  async logits(request: Omit<LogitsRequest, 'op'>): Promise<Float32Array[]> {
    const { logits } = await this.ask<LogitsAnswer>({ op: 'logits', ...request } satisfies LogitsRequest);
    return logits.map((text) => new Float32Array(Uint8Array.from(Buffer.from(text, 'base64')).buffer));
  }

  layer(request: Omit<LayerRequest, 'op'>): Promise<LayerAnswer> {
    return this.ask<LayerAnswer>({ op: 'layer', ...request } satisfies LayerRequest);
  }

  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, 'exit');
    this.child.kill('SIGKILL');
    await ended;
  }

  private async ask<Answer>(request: object): Promise<Answer> {
    this.child.kill('SIGCONT');
    this.child.stdin.write(`${JSON.stringify(request)}\n`);
    const answer = await this.answer<Answer>();
    this.child.kill('SIGSTOP');
    return answer;
  }

  private async answer<Answer>(): Promise<Answer> {
    const { value, done } = await this.lines.next();
    if (done) throw new Error(`its process ended: ${this.errors() || 'it said nothing'}`);
    const answer = JSON.parse(value) as Answer & { readonly error?: string };
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer;
  }
}
