/** `maskctl train --backend cuda` learns what `--backend cpu` learns, and what it learns with stays on the device. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { decodeMaskSet } from '../../codec/decode.js';
import { native, type BackendName } from '../../kernels/index.js';
import { WORKING_BYTES } from '../../server/engine/device-budget.js';
import { loadModel } from '../../server/engine/model.js';
import { runTraining } from '../../server/trainer/run.js';
import type { TrainEvent, TrainStep } from '../../server/trainer/types.js';
import { maskctl } from '../clients/cli/maskctl.js';
import { DOCUMENTS, request, run } from '../server/trainer/runs.js';
import { noGpu, onStandIn } from './gpu.js';
import { writeSmallModel } from './small-model.js';

const STEPS = 3;
/** Nats: activations and gradients are rounded to bf16 on both sides. */
const NEAR = 2e-3;
/** Of the groups: where two weights score alike, rounding decides. */
const MOST_CHANGED = 0.01;

const folder = mkdtempSync(join(tmpdir(), 'maskserve-gpu-train-'));
after(() => rmSync(folder, { recursive: true }));
writeSmallModel(folder, 64);
const TEXT = join(folder, 'cats.jsonl');
writeFileSync(TEXT, DOCUMENTS.map((text) => `${JSON.stringify({ text })}\n`).join(''));

interface Learned {
  readonly steps: readonly TrainStep[];
  readonly symbols: readonly Uint8Array[];
}

async function trained(backend: BackendName, ...options: readonly string[]): Promise<Learned> {
  const out = join(folder, `${backend}.mask`);
  const run = ['train', '--task', 'cats', '--data', TEXT, '--model', folder, '--local', '--out', out, '--json'];
  const small = [
    '--steps',
    String(STEPS),
    '--batch',
    '2',
    '--seq',
    '16',
    '--warmup',
    '1',
    '--evaluate-windows',
    '1',
    '--log-every',
    '1',
  ];
  const more = ['--prior', 'magnitude', '--backend', backend, '--flat', '--force', '--threads', '1', ...options];
  const library = process.env['MASKSERVE_CUDA_LIBRARY'];
  const env = {
    MASKSERVE_CUDA_CHOICES: '',
    MASKSERVE_HOST_GPU_BYTES: String(2 ** 32),
    ...(library === undefined ? {} : { MASKSERVE_CUDA_LIBRARY: library }),
  };
  const { code, stdout, stderr } = await maskctl([...run, ...small, ...more], { env });
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
  const events = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as TrainEvent);
  const { masks } = decodeMaskSet(readFileSync(out));
  rmSync(out);
  return { steps: events.filter((event) => event.type === 'step'), symbols: masks.map(({ symbols }) => symbols) };
}

for (const [method, loss, rate] of [
  ['ste', 'kl', '0.01'],
  ['gumbel', 'lm', '0.02'],
] as const) {
  test(
    `train --method ${method} --loss ${loss} learns on the GPU what it learns on the CPU`,
    { skip: noGpu },
    async () => {
      const options = ['--method', method, '--loss', loss, '--lr', rate];
      const expected = await trained('cpu', ...options);
      const actual = await trained('cuda', ...options);
      assert.deepEqual([expected.steps.length, actual.steps.length], [STEPS, STEPS]);
      expected.steps.forEach((step, i) => {
        const { loss: own, gradientNorm } = actual.steps[i]!;
        assert.ok(Math.abs(own - step.loss) < NEAR, `step ${i + 1}: loss ${own}, on the CPU ${step.loss}`);
        // Adam's first update is ± the rate, however small a gradient is: the sign of what should be 0 is rounding's.
        const apart = Math.abs(gradientNorm / step.gradientNorm - 1);
        assert.ok(
          apart < (i === 0 ? 1e-3 : 0.05),
          `step ${i + 1}: gradient norm ${gradientNorm} of ${step.gradientNorm}`,
        );
      });
      const groups = expected.symbols.reduce((sum, symbols) => sum + symbols.length, 0);
      const differing = (of: Learned, from: Learned): number =>
        of.symbols.reduce(
          (sum, symbols, m) => sum + symbols.filter((symbol, g) => symbol !== from.symbols[m]![g]).length,
          0,
        );
      assert.ok(
        differing(actual, expected) < MOST_CHANGED * groups,
        `${differing(actual, expected)} of ${groups} groups`,
      );
    },
  );
}

test(
  'a step on the GPU brings nothing back but sums: scores, moments and activations stay there',
  { skip: noGpu },
  async (t) => {
    const [read, write] = [t.mock.method(native, 'read'), t.mock.method(native, 'write')];
    native.useBackend('cuda');
    const model = loadModel(folder);
    try {
      const copies: number[] = [];
      const events = runTraining(model, request({ steps: 3, seq: 16, evaluateWindows: 1 }));
      for await (const event of events) {
        if (event.type === 'step') copies.push(read.mock.callCount() + write.mock.callCount());
      }
      // The last step is looked at: its mask is read.
      assert.equal(copies.length, 3);
      assert.equal(copies[1], copies[0]);
    } finally {
      model.dispose();
      native.useBackend('cpu');
      read.mock.restore();
      write.mock.restore();
    }
  },
);

test('a run takes no more of the GPU than it says before it takes any', { skip: noGpu }, async (t) => {
  native.useBackend('cuda');
  const before = native.memory().freeBytes;
  let least = before;
  const { alloc } = native;
  const counting = t.mock.method(native, 'alloc', (bytes: number) => {
    const handle = alloc(bytes);
    least = Math.min(least, native.memory().freeBytes);
    return handle;
  });
  const model = loadModel(folder);
  try {
    const wanted = request({ method: 'gumbel', rate: 0.1, steps: 2, seq: 16, evaluateWindows: 1 });
    const refused: Error = await run(model, wanted, { deviceBytes: 1 }).then(
      () => assert.fail('it ran'),
      (error: Error) => error,
    );
    assert.match(refused.message, /, but 0 MiB are free for it on .*; lower --batch, .* or use --backend cpu$/);
    const said = Number(/^expected (\d+) MiB of GPU memory/.exec(refused.message)?.[1]) * 2 ** 20;
    await run(model, wanted);
    const spare = onStandIn ? WORKING_BYTES - 16 * 2 ** 20 : 0; // what its libraries take is not there
    assert.ok(before - least <= said - spare, `it took ${before - least} and said ${said}`);
  } finally {
    model.dispose();
    native.useBackend('cpu');
    counting.mock.restore();
  }
});

test('a GPU that is not there is refused in one line', async () => {
  const { code, stderr } = await maskctl(
    ['train', '--task', 'cats', '--data', TEXT, '--local', '--out', 'x', '--backend', 'cuda'],
    {
      env: { MASKSERVE_CUDA_LIBRARY: join(folder, 'nothing.so') },
    },
  );
  assert.equal(code, 1);
  assert.match(stderr, /can't run with --backend cuda: .*"maskctl doctor" says more/);
});
