/** From how many tokens on panels pay: how that is chosen, that it is kept, and that results do not depend on it but for rounding. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, beforeEach, describe, it } from 'node:test';
import { native, type Handle } from '../../../kernels/index.js';
import { keepChoices, keptChoices } from '../../../server/engine/autotune-cache.js';
import { pickPanelTokens, tune, tunedPanelTokens, type Times } from '../../../server/engine/autotune.js';
import { startEngine } from '../../../server/engine/engine-client.js';
import { KvCache } from '../../../server/engine/kv-cache.js';
import { byInput } from '../../../server/engine/linear-shapes.js';
import { Forward } from '../../../server/engine/llama.js';
import { loadModel } from '../../../server/engine/model.js';
import { LONG_PROMPT, panelTokensByRule } from '../../../server/engine/panel-tokens.js';
import type { TaskWeights } from '../../../server/engine/types.js';
import type { LayerWeights } from '../../../server/engine/weights.js';
import { metadata, random, relativeError } from '../../kernels/numbers.js';
import { TINY } from '../../tiny.js';

const folder = mkdtempSync(join(tmpdir(), 'maskserve-autotune-'));
const model = loadModel(TINY, { threads: 1, maxContext: 64 });
const layer = model.weights.layers[0] as LayerWeights;
/** Rows and columns of what is multiplied in one call: q·k·v, o, gate·up, down. */
const SHAPES = byInput(layer).map(
  (matrices) => [matrices.reduce((sum, { rows }) => sum + rows, 0), matrices[0]?.cols ?? 0] as const,
);
const usersCache = process.env['XDG_CACHE_HOME'];
let file = '';

beforeEach(() => {
  process.env['XDG_CACHE_HOME'] = mkdtempSync(join(folder, 'cache-'));
  file = join(process.env['XDG_CACHE_HOME'], 'maskserve', 'autotune.json');
});
after(() => {
  if (usersCache === undefined) delete process.env['XDG_CACHE_HOME'];
  else process.env['XDG_CACHE_HOME'] = usersCache;
  model.dispose();
  rmSync(folder, { recursive: true });
});

describe('picking the number of tokens from which panels are used', () => {
  /** Packing costs as much as 100 tokens of panels; a token of dot products costs `dot` of those. */
  const costs =
    (dot: number) =>
    (tokens: number): Times => ({ panels: 100 + tokens, dots: dot * tokens });

  it('takes the least number at which panels are faster', () => {
    assert.equal(pickPanelTokens(costs(5)), 32);
    assert.equal(pickPanelTokens(costs(10)), 16);
    assert.equal(pickPanelTokens(costs(100)), 8);
  });

  it('leaves panels to long prompts where they are never faster', () => {
    assert.equal(pickPanelTokens(costs(1)), LONG_PROMPT);
    assert.equal(
      pickPanelTokens(() => ({ panels: 1, dots: 1 })),
      LONG_PROMPT,
    );
  });

  it('does not count a win that more tokens lose again', () => {
    const lostAt = (lost: number): number | undefined =>
      pickPanelTokens((tokens) => ({ panels: tokens === lost ? 2 : 0, dots: 1 }));
    assert.equal(lostAt(24), 32);
    assert.equal(lostAt(64), LONG_PROMPT);
  });

  it('chooses nothing when time runs out before that is known', () => {
    assert.equal(
      pickPanelTokens((tokens) => (tokens > 16 ? { panels: 0, dots: 1 } : undefined)),
      undefined,
    );
  });
});

describe('measuring', () => {
  const groups = [[[layer.q, layer.k, layer.v]], [[layer.o]], [[layer.gate, layer.up]]];
  /** A clock that is `step` further whenever it is looked at: every product takes as long. */
  const clock = (step: number) => {
    let ms = 0;
    return () => (ms += step);
  };

  it('chooses for every shape while time lasts, each once', () => {
    const [[qkvRows, hidden], [oRows], [ffnRows]] = SHAPES as [[number, number], [number], [number]];
    const names = [qkvRows, oRows, ffnRows].map((rows) => `${rows} x ${hidden}`);
    const chosen = tune([...groups, ...groups], clock(0.01));
    assert.deepEqual([...chosen.keys()], native.info().isa === 'scalar' ? [] : [...new Set(names)]);
    for (const tokens of chosen.values()) assert.equal(tokens, LONG_PROMPT);
  });

  it('stops when its time is over, and keeps what it has until then', () => {
    assert.equal(tune(groups, clock(1000)).size, 0);
    assert.equal(tune(groups, clock(12)).size, native.info().isa === 'scalar' ? 0 : 1);
  });
});

describe('what was measured', { skip: native.info().isa === 'scalar' ? 'nothing is chosen here' : false }, () => {
  /** By a clock so slow that time is left for every shape, whatever else this machine does. */
  const choices = (): number[] => {
    const of = tunedPanelTokens(model.weights.layers, () => performance.now() / 1000);
    return SHAPES.map(([rows, cols]) => of(rows, cols));
  };
  const kept = (): Record<string, Record<string, unknown>> =>
    JSON.parse(readFileSync(file, 'utf8')) as Record<string, Record<string, unknown>>;

  it('is kept for this processor, instruction set, thread count and version of the kernels', () => {
    for (const tokens of choices()) assert.ok(tokens >= 8 && tokens <= LONG_PROMPT, `${tokens}`);
    const { isa, abiVersion } = native.info();
    const [machine, ...others] = Object.keys(kept());
    assert.ok(machine?.endsWith(`, ${isa}, 1 threads, kernels ${abiVersion}`), machine);
    assert.deepEqual(others, []);
    assert.equal(Object.keys(kept()[machine as string] ?? {}).length, new Set(SHAPES.map(String)).size);
  });

  it('is taken from there the next time, and for the same machine only', () => {
    const shapes = SHAPES.map(([rows, cols]) => `${rows} x ${cols}`);
    const expected = shapes.map((shape) => 17 + shapes.indexOf(shape));
    keepChoices(new Map(shapes.map((shape, i) => [shape, expected[i] as number])));
    assert.deepEqual(choices(), expected);
    native.setThreads(2);
    try {
      assert.equal(keptChoices().size, 0);
      keepChoices(new Map([['1 x 8', 9]]));
    } finally {
      native.setThreads(1);
    }
    assert.deepEqual(choices(), expected);
  });

  it('is measured anew where the file is broken, and by nobody’s harm where none can be written', () => {
    mkdirSync(dirname(file), { recursive: true });
    const machine = (): string => Object.keys(kept())[0] as string;
    choices();
    const odd = Object.fromEntries(SHAPES.map(([rows, cols]) => [`${rows} x ${cols}`, 0.5]));
    for (const broken of ['', '{"', '[]', '7', 'null', JSON.stringify({ [machine()]: odd }), `{"${machine()}":[1]}`]) {
      writeFileSync(file, broken);
      for (const tokens of choices()) assert.ok(tokens >= 8 && tokens <= LONG_PROMPT, `${tokens} after ${broken}`);
      assert.equal(keptChoices().size, new Set(SHAPES.map(String)).size, broken);
    }
    process.env['XDG_CACHE_HOME'] = file;
    for (const tokens of choices()) assert.ok(tokens >= 8 && tokens <= LONG_PROMPT);
    assert.equal(keptChoices().size, 0);
  });

  it('is never half written for whoever reads it while others write', async () => {
    const module = new URL('../../../server/engine/autotune-cache.js', import.meta.url).href;
    const writes = `import { keepChoices } from '${module}';
      for (let i = 0; i < 50; i++) keepChoices(new Map(Array.from({ length: 100 }, (_, k) => [k + ' x 8', 8 + i])));`;
    keepChoices(new Map([['1 x 8', 9]]));
    const writers = [0, 1].map(() => spawn(process.execPath, ['--input-type=module', '-e', writes]));
    let running = writers.length;
    const ends = writers.map((child) => once(child, 'exit').finally(() => running--));
    let reads = 0;
    for (; running > 0; reads++) {
      kept();
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    assert.deepEqual(await Promise.all(ends), [
      [0, null],
      [0, null],
    ]);
    assert.ok(reads > 10, `${reads} reads`);
  });

  it('is asked for by an engine that is told to, and by no other', async () => {
    const start = async (options: { readonly autotune?: boolean }): Promise<boolean> => {
      const engine = await startEngine({ modelDirectory: TINY, threads: 1, ...options });
      await engine.close(0);
      return existsSync(dirname(file));
    };
    assert.equal(await start({}), false);
    let kept = false;
    // Where others keep the machine busy, time may run out before the first shape is measured.
    for (let attempt = 0; attempt < 5 && !kept; attempt++) kept = await start({ autotune: true });
    assert.ok(kept);
  });
});

it('logits of short prompts are the same to rounding, whatever is chosen', () => {
  native.setPrecision('f32');
  const task = compacted();
  try {
    for (const tokens of [1, 7, 9, 33, 64]) {
      const expected = logits(task, tokens, LONG_PROMPT);
      for (const from of [1, 8, 16, 33]) {
        const error = relativeError(logits(task, tokens, from), expected);
        assert.ok(error < 1e-5, `${tokens} tokens, panels from ${from}: error ${error}`);
        if (tokens < from) assert.equal(error, 0);
      }
    }
  } finally {
    native.setPrecision('bf16');
    for (const { packed } of Object.values(task.matrices)) native.free(packed);
  }
});

it('goes by the columns where nothing was measured', () => {
  const expected = native.info().isa === 'avx512' ? [8, 8, 24, 32, 32, 32] : [8, 8, 8, 8, 8, 8];
  assert.deepEqual(
    [64, 192, 576, 768, 1536, 4096].map((cols) => panelTokensByRule(1, cols)),
    expected,
  );
});

/** Of the last of `tokens`. */
function logits(task: TaskWeights, tokens: number, panelTokens: number): Float32Array {
  const forward = new Forward(model.config, model.weights, 64, () => panelTokens);
  const cache = new KvCache(model.config, 64, 'f32');
  try {
    forward.run(
      Int32Array.from({ length: tokens }, (_, i) => 5 + 7 * i),
      cache,
      task,
    );
    forward.head(tokens - 1, 1);
    const row = new Float32Array(model.config.vocab);
    native.read(forward.logits, 0, row);
    return row;
  } finally {
    cache.dispose();
    forward.dispose();
  }
}

function compacted(): TaskWeights {
  const next = random(11);
  const matrices: Record<string, { packed: Handle }> = {};
  for (const { name, rows, cols, weight } of model.info.maskable) {
    const packed = native.alloc(native.packedBytes(rows, cols));
    const meta = native.alloc((rows * cols) / 8);
    native.write(meta, 0, metadata(next, (rows * cols) / 8));
    native.compress24(packed, weight, meta, rows, cols);
    native.free(meta);
    matrices[name] = { packed };
  }
  return { digest: '', matrices, bytes: 0 };
}
