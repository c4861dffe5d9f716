/** The PyTorch yardstick's training speed: `maskllm_torch.py speed`, which trains by the paper's method with the LM loss at batch 16 × 256, in a process of its own. */
import { spawnSync } from 'node:child_process';

export interface Yardstick {
  /** A Python that has torch. */
  readonly python: string;
  /** maskllm_torch.py, beside ../data. */
  readonly script: string;
}

export interface YardstickResult {
  readonly tokensPerSecond: number;
  readonly peakBytes: number;
}

const PYTHON_VARIABLE = 'MASKSERVE_YARDSTICK';
const SCRIPT_VARIABLE = 'MASKSERVE_YARDSTICK_SCRIPT';

/** From the command line, else from the environment; else why there is none. */
export function findYardstick(python: string | undefined, script: string | undefined): Yardstick | string {
  const found = {
    python: python ?? process.env[PYTHON_VARIABLE],
    script: script ?? process.env[SCRIPT_VARIABLE],
  };
  if (found.python && found.script) return { python: found.python, script: found.script };
  const missing = [
    ...(found.python ? [] : [`a Python with torch (--yardstick PYTHON or ${PYTHON_VARIABLE})`]),
    ...(found.script ? [] : [`the path of maskllm_torch.py (--yardstick-script FILE or ${SCRIPT_VARIABLE})`]),
  ];
  return `it needs ${missing.join(' and ')}`;
}

/** One run, or why it failed. `threads` 0: torch's own choice. */
export function runYardstick({ python, script }: Yardstick, model: string, threads: number): YardstickResult | string {
  const env = threads > 0 ? { ...process.env, OMP_NUM_THREADS: String(threads) } : process.env;
  const child = spawnSync(python, ['-B', script, 'speed', '--model', model], { env, encoding: 'utf8' });
  const lastLine = (text: string): string => text.trim().split('\n').at(-1) ?? '';
  if (child.error) return `${python} did not start: ${child.error.message}`;
  if (child.status !== 0) return `${python} ${script} speed failed: ${lastLine(child.stderr)}`;
  const line = lastLine(child.stdout);
  const figures = parseFigures(line);
  if (figures) return figures;
  return `expected ${script} speed to print {"tokens_per_s": …, "peak_mb": …} last, but it printed ${line || 'nothing'}`;
}

function parseFigures(line: string): YardstickResult | undefined {
  try {
    const { tokens_per_s: rate, peak_mb: peak } = JSON.parse(line) as Record<string, unknown>;
    if (typeof rate !== 'number' || typeof peak !== 'number') return undefined;
    return { tokensPerSecond: rate, peakBytes: peak * 2 ** 20 };
  } catch {
    return undefined;
  }
}
