import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { contentDigest } from '../../../codec/content-digest.js';
import { decodeMaskSet } from '../../../codec/decode.js';
import { encodeMaskSet } from '../../../codec/encode.js';
import { native } from '../../../kernels/index.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { oneShotMask } from '../../../server/trainer/one-shot.js';
import { TINY } from '../../tiny.js';
import { DOCUMENTS, losses, request, run } from './runs.js';

let model: Model;
const usage = native.usage();
before(() => {
  model = loadModel(TINY, { threads: 2 });
});
after(() => {
  model.dispose();
  assert.deepEqual(native.usage(), usage, 'every buffer is given back');
});

const magnitude = (): ReturnType<typeof oneShotMask> =>
  oneShotMask(model, { method: 'magnitude', windows: [], damp: 0.01 });

test('ten steps from the magnitude mask learn a repetitive text, and the mask says so on text that was held out', async () => {
  const { started, steps, finished, set } = await run(model, request());
  assert.deepEqual(
    steps.map(({ step }) => step),
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
  );
  const [first, last] = [steps[0]?.lm as number, steps.at(-1)?.lm as number];
  assert.ok(last < first / 2, `loss ${first} → ${last}`);
  const [row] = finished.heldOut;
  assert.ok(row && row.mask < row.prior / 4, JSON.stringify(row));
  assert.ok(row.dense < row.prior);
  assert.equal(started.priorPerplexity, row.prior);
  assert.ok(!('maxProbability' in (steps.at(-1) as object)), 'a hard mask has none');
  assert.equal(finished.publishable, true);
  assert.ok(finished.changed > 0 && finished.changed < 0.5 && finished.bitsPerParameter > 0);
  assert.equal(set.parent, undefined);
  assert.equal(set.base, model.info.base);
  assert.equal(contentDigest(decodeMaskSet(encodeMaskSet(set))), contentDigest(set));
  const { memory } = started;
  assert.ok(Math.abs(memory.bytesPerWeight - 14.125) < 1e-9);
  assert.equal(memory.learnerBytes, memory.bytesPerWeight * 4_423_680);
  assert.ok(memory.activationBytes > 0 && !memory.recomputes);
});

test('a transfer starts from its parent and names it by its content digest', async () => {
  const parent = magnitude();
  const { finished, set } = await run(model, request({ steps: 2, learningRate: 1e-6 }, { from: 'general' }), {
    parent,
  });
  assert.equal(set.parent, contentDigest(parent));
  assert.equal(finished.changed, 0, 'so low a rate flips nothing');
  assert.deepEqual(set.masks, parent.masks);
  assert.equal(finished.publishable, true, 'no worse than its parent');
});

test('layers kept dense are in no mask and learn nothing; the others do', async () => {
  const { set } = await run(
    model,
    request({ steps: 6, learningRate: 8e-3, keepDense: ['last:1', '0', 'model.layers.2'] }),
  );
  const layers = new Set(set.masks.map(({ name }) => name.split('.')[2]));
  assert.deepEqual([...layers], ['1', '3', '4']);
  assert.equal(set.masks.length, 3 * 7);
  const prior = new Map(magnitude().masks.map(({ name, symbols }) => [name, symbols]));
  assert.ok(
    set.masks.some(({ name, symbols }) => !Buffer.from(symbols).equals(Buffer.from(prior.get(name) as Uint8Array))),
  );
});

test('a matrix is kept dense by its name, with .weight or without', async () => {
  const [down, up] = ['model.layers.5.mlp.down_proj', 'model.layers.1.self_attn.q_proj.weight'];
  const { set, finished } = await run(
    model,
    request({ steps: 4, learningRate: 8e-3, keepDense: [down, up], prior: 'wanda' }),
  );
  const names = new Set(set.masks.map(({ name }) => name));
  assert.equal(names.size, 6 * 7 - 2);
  assert.ok(!names.has(`${down}.weight`) && !names.has(up) && names.has('model.layers.5.mlp.up_proj.weight'));
  assert.ok(finished.changed > 0);
});

test('the paper’s method learns too, and can start from nothing', async () => {
  const method = 'gumbel';
  const { steps, finished } = await run(model, request({ method, steps: 5, learningRate: 5e-3 }));
  assert.ok((steps.at(-1)?.lm as number) < (steps[0]?.lm as number));
  assert.ok(finished.changed > 0);
  const random = await run(model, request({ method, steps: 1, learningRate: 1e-9, prior: 'none' }));
  assert.equal(random.finished.changed, 0);
  const [sure, unsure] = [steps, random.steps].map((seen) => seen.at(-1)?.maxProbability as number) as [number, number];
  assert.ok(sure > 0.9 && sure <= 1, `κ·α·σ is 15 in the end: ${sure}`);
  assert.ok(unsure > 1 / 6 && unsure < sure, String(unsure));
  const used = new Set(random.set.masks[0]?.symbols);
  assert.equal(used.size, 6, 'all patterns occur');
  assert.ok((random.finished.heldOut[0]?.prior as number) > 4 * (finished.heldOut[0]?.prior as number));
});

test('the best mask that a look saw is the result, and one worse than its prior is not publishable unless forced', async () => {
  const wild = { steps: 6, learningRate: 3, evaluateEvery: 1 } as const;
  const { steps, finished } = await run(model, request(wild));
  const looks = steps.map(({ heldOutPerplexity }) => heldOutPerplexity as number);
  assert.equal(finished.heldOut[0]?.mask, Math.min(...looks));
  assert.equal(looks[finished.step - 1], Math.min(...looks));
  assert.ok(Math.min(...looks) > (finished.heldOut[0]?.prior as number), 'a rate of 3 ruins it');
  assert.equal(finished.publishable, false);
  const forced = await run(model, request(wild, { force: true }));
  assert.equal(forced.finished.publishable, true);
  assert.deepEqual(losses(forced.steps), losses(steps), 'same seed, same run');
});

test('recomputed activations give the same losses, and the memory says so', async () => {
  const kept = await run(model, request({ steps: 2 }));
  const recomputed = await run(model, request({ steps: 2 }), { activationBytes: 0 });
  assert.deepEqual(losses(recomputed.steps), losses(kept.steps));
  assert.equal(recomputed.started.memory.recomputes, true);
  assert.ok(recomputed.started.memory.activationBytes < kept.started.memory.activationBytes);
});

test('the loss is what was asked for: LM, KL to the dense model, or half of each', async () => {
  const kl = await run(model, request({ steps: 1, loss: 'kl' }));
  const mix = await run(model, request({ steps: 1, loss: 'mix' }));
  const [a, b] = [kl.steps[0], mix.steps[0]];
  assert.ok(a && b && a.kl > 0);
  assert.equal(a.loss, a.kl);
  assert.ok(Math.abs(b.loss - (b.kl + b.lm) / 2) < 1e-12);
  assert.equal(a.kl, b.kl);
});

test('guards without a share of the steps are scored and change nothing', async () => {
  const guards = [{ name: 'prose', documents: ['It was the best of times, it was the worst of times. '.repeat(20)] }];
  const { steps, finished } = await run(model, request({ steps: 2, guardShare: 0 }, { guards }));
  assert.deepEqual(
    finished.heldOut.map(({ source, guard }) => [source, guard]),
    [
      ['cats.txt', false],
      ['prose', true],
    ],
  );
  assert.deepEqual(losses(steps), losses((await run(model, request({ steps: 2 }))).steps));
});

test('what can not be run is refused with one line', async () => {
  const parent = magnitude();
  const short = [{ name: 'short.txt', documents: ['too short'] }];
  const cases: [() => Promise<unknown>, RegExp][] = [
    [() => run(model, request({}, { sources: [] })), /expected text to train on; give --data/],
    [() => run(model, request({}, { sources: short })), /expected more than 64 tokens of training text in short\.txt/],
    [
      () =>
        run(
          model,
          request({ guardShare: 0 }, { sources: [{ name: 'a.txt', documents: DOCUMENTS.slice(0, 3) }], guards: short }),
        ),
      /expected more than 64 tokens of text in short\.txt, but it has \d+; add text, or lower --seq/,
    ],
    [() => run(model, request({ steps: 0 })), /expected at least one step/],
    [
      () => run(model, request({ seq: 100_000 })),
      /expected --seq to be at most the model's context of \d+ but received 100000/,
    ],
    [() => run(model, request({ prior: 'none' })), /expected --method gumbel beside --prior none/],
    [
      () => run(model, request({ keepDense: ['6'] })),
      /like last:1, first:2, 5, model\.layers\.5 or .* but received 6$/,
    ],
    [
      () => run(model, request({ keepDense: ['model.layers.4.mlp.down_pro.weight'] })),
      /but received model\.layers\.4\.mlp\.down_pro\.weight; near are model\.layers\.4\.mlp\.down_proj, /,
    ],
    [() => run(model, request({ keepDense: ['k_prj'] })), /near are (model\.layers\.\d\.self_attn\.k_proj(, )?){3}$/],
    [() => run(model, request({ keepDense: ['first:6'] })), /expected --keep-dense to leave some of the 6 layers/],
    [
      () => run(model, request({ batch: 2 ** 24 })),
      /expected [\d.]+ GiB of memory for this run .* the machine has .*; lower --batch/,
    ],
    [
      () => run(model, request({}, { from: 'x' }), { parent: { ...parent, base: '00'.repeat(32) } }),
      /for the base weights [0-9a-f]{64}, but it is for 0{64}/,
    ],
    [
      () => run(model, request({}, { from: 'x' }), { parent: { ...parent, masks: parent.masks.slice(7) } }),
      /to cover model\.layers\.0\.self_attn\.q_proj\.weight \(256x256\).*--keep-dense/,
    ],
  ];
  for (const [start, message] of cases) {
    await assert.rejects(start, (error: Error) => {
      assert.match(error.message, message);
      assert.ok(!error.message.includes('\n'));
      return true;
    });
  }
});

test('a gradient that is not finite ends the run with the step and the tensor', async () => {
  await assert.rejects(
    run(model, request({ steps: 6, learningRate: 1e38, beta2: 0, method: 'gumbel' })),
    /training diverged at step \d+: .* is not finite; lower the learning rate/,
  );
});
