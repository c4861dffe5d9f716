/** Teachers that are there: a fine-tuned directory with its own embedding and norms, a PEFT folder, and what is refused before any text is read. */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { native } from '../../../kernels/index.js';
import { KvCache } from '../../../server/engine/kv-cache.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { locateTensors } from '../../../server/engine/safetensors.js';
import { Lora } from '../../../server/trainer/lora.js';
import { writeLora } from '../../../server/trainer/lora-peft.js';
import { denseWeights } from '../../../server/trainer/layer-pass.js';
import { saveModel, type ReadWeights } from '../../../server/trainer/save-model.js';
import { checkTeacher, type TeacherChoice } from '../../../server/trainer/teacher.js';
import { TrainingPass } from '../../../server/trainer/training-pass.js';
import { TINY } from '../../tiny.js';
import { losses, request, run } from './runs.js';

const folder = mkdtempSync(join(tmpdir(), 'maskserve-teacher-'));
const usage = native.usage();
let model: Model;
/** models/tiny with another embedding, other norms and another down projection. */
const tuned = join(folder, 'tuned');
before(() => {
  model = loadModel(TINY, { threads: 2 });
  mkdirSync(tuned);
  const changed = new Map<string, ReadWeights>();
  for (const { name, shape } of locateTensors(TINY).values()) {
    if (!/embed_tokens|norm|layers\.2\.mlp\.down/.test(name)) continue;
    const count = shape.reduce((product, length) => product * length, 1);
    changed.set(name, shifted(name, count));
  }
  saveModel(tuned, TINY, changed);
});
after(() => {
  model.dispose();
  rmSync(folder, { recursive: true });
  assert.deepEqual(native.usage(), usage, 'every buffer is given back');
});

/** The tensor's bf16 values, a quarter larger at every third place. */
function shifted(name: string, count: number): ReadWeights {
  const tensor = locateTensors(TINY).get(name);
  assert.ok(tensor && tensor.type === 'bf16');
  const file = readFileSync(tensor.file);
  const values = new Uint16Array(count);
  for (let i = 0; i < count; i++) {
    const bits = file.readUInt16LE(tensor.offset + 2 * i);
    const value = new Float32Array(Uint32Array.of(bits << 16).buffer)[0] as number;
    values[i] = (new Uint32Array(Float32Array.of(i % 3 ? value : value * 1.25).buffer)[0] as number) >>> 16;
  }
  const bytes = new Uint8Array(values.buffer);
  return (offset, into) => into.set(bytes.subarray(offset, offset + into.length));
}

const given = (directory: string, base?: string): TeacherChoice => ({
  kind: 'given',
  directory,
  ...(base === undefined ? {} : { base }),
});

/** log p of every token after each position, from the engine's own forward pass. */
function logProbabilities({ forward, config }: Model, ids: Int32Array): Float64Array[] {
  const cache = new KvCache(config, ids.length);
  const all = Int32Array.from({ length: config.vocab }, (_, id) => id);
  try {
    cache.length = 0;
    forward.run(ids, cache, null);
    return Array.from(ids, (_, position) => {
      const out = new Float64Array(config.vocab);
      forward.head(position, 1);
      native.logprobs(forward.logits, 0, config.vocab, all, out);
      return out;
    });
  } finally {
    cache.dispose();
  }
}

test('KL is taken to the teacher as it is, embedding, norms and head included', () => {
  const teacher = loadModel(tuned, { threads: 2 });
  const pass = new TrainingPass(model, { batch: 1, tokens: 24, activationBytes: Infinity });
  native.setPrecision('f32');
  try {
    const ids = Int32Array.from({ length: 24 }, (_, i) => (i * 523 + 11) % 4096);
    const [p, q] = [logProbabilities(teacher, ids), logProbabilities(model, ids)];
    let expected = 0;
    p.forEach((row, t) => {
      row.forEach((logP, id) => (expected += (Math.exp(logP) * (logP - (q[t]?.[id] as number))) / ids.length));
    });
    pass.teach(ids, teacher.weights);
    const { kl } = pass.step(ids, ids, [{ rows: ids.length, klWeight: 1 }], denseWeights, () => undefined);
    assert.ok(expected > 0.05, `the teacher differs: ${expected}`);
    assert.ok(Math.abs(kl / expected - 1) < 1e-3, `${kl}, expected ${expected}`);
    pass.teach(ids, model.weights);
    assert.ok(
      pass.step(ids, ids, [{ rows: ids.length, klWeight: 1 }], denseWeights, () => undefined).kl < 1e-6,
      'and none to itself',
    );
  } finally {
    native.setPrecision('bf16');
    pass.dispose();
    teacher.dispose();
  }
});

test('a copy of the model teaches what the model itself does; a tuned one teaches something else, and says how good it is', async () => {
  const wanted = request({ loss: 'kl', steps: 2 });
  const own = await run(model, wanted);
  const copy = await run(model, wanted, { teacher: given(TINY) });
  assert.deepEqual(losses(copy.steps), losses(own.steps));
  assert.equal(own.started.teacher, undefined);
  assert.ok((copy.started.teacher?.bytes ?? 1e9) < 2 * 4_423_680, 'its matrices are mapped');
  assert.equal(copy.started.teacher?.perplexity, copy.finished.heldOut[0]?.dense);
  const other = await run(model, wanted, { teacher: given(tuned) });
  assert.notEqual(other.steps[0]?.kl, own.steps[0]?.kl);
  assert.notEqual(other.started.teacher?.perplexity, other.finished.heldOut[0]?.dense);
});

test('auto takes half KL to a teacher that is clearly better on held-out text than the start, and the LM loss alone where it is not', async () => {
  const wanted = request({ loss: 'auto', steps: 1, prior: 'magnitude' });
  const good = await run(model, wanted);
  assert.deepEqual(good.started.chosenLoss, { loss: 'mix', teacherPerplexity: good.finished.heldOut[0]?.dense });
  assert.deepEqual(losses(good.steps), losses((await run(model, request({ ...wanted.settings, loss: 'mix' }))).steps));
  const bad = await run(model, wanted, { teacher: given(tuned) });
  const { loss, teacherPerplexity = 0 } = bad.started.chosenLoss ?? {};
  assert.equal(loss, 'lm');
  assert.equal(teacherPerplexity, bad.started.teacher?.perplexity);
  assert.ok(teacherPerplexity > bad.started.priorPerplexity);
  assert.equal(bad.steps[0]?.loss, bad.steps[0]?.lm);
  assert.equal((await run(model, request({ loss: 'lm', steps: 1 }))).started.chosenLoss, undefined);
});

test('an adapter of zeros merged over the model is the model, on any base of its shape', async () => {
  const lora = new Lora(model.weights, { rank: 1, scaling: 2, seed: 0 });
  const directory = join(folder, 'zero');
  writeLora(directory, lora.adapter(), TINY);
  lora.dispose();
  const wanted = request({ loss: 'kl', steps: 2 });
  const merged = await run(model, wanted, { teacher: given(directory) });
  assert.deepEqual(losses(merged.steps), losses((await run(model, wanted)).steps));
  assert.equal(merged.started.teacher?.bytes, 2 * 4_423_680, '2 bytes a weight');
  const onTuned = await run(model, wanted, { teacher: given(directory, tuned) });
  const plain = await run(model, wanted, { teacher: given(tuned) });
  assert.deepEqual(losses(onTuned.steps), losses(plain.steps));
});

test('a run is resumed with the same teacher or not at all', async () => {
  const directory = join(folder, 'state');
  const wanted = request({ loss: 'mix', steps: 2 });
  const checkpoint = { directory, every: 0, resume: false };
  await run(model, wanted, { teacher: given(tuned), checkpoint });
  const resume = { ...checkpoint, resume: true };
  await run(model, wanted, { teacher: given(tuned), checkpoint: resume });
  await assert.rejects(
    run(model, wanted, { teacher: given(TINY), checkpoint: resume }),
    /can't resume from .*: teacher was "model [0-9a-f]{64}" and is now "model [0-9a-f]{64}"/,
  );
  await assert.rejects(run(model, wanted, { checkpoint: resume }), /: teacher was "model .*" and is now not given/);
  const late: TeacherChoice = { kind: 'tuned', rank: 1, steps: 1, learningRate: 1e-3 };
  await assert.rejects(
    run(model, wanted, { teacher: late, checkpoint: resume }),
    /can't resume from .*: that run had no --tune-teacher/,
  );
});

/** models/tiny with other words in its configuration. */
function variant(name: string, change: (json: Record<string, unknown>) => void, file = 'config.json'): string {
  const directory = join(folder, name);
  cpSync(TINY, directory, { recursive: true, filter: (path) => !path.includes('masks') });
  const json = JSON.parse(readFileSync(join(directory, file), 'utf8')) as Record<string, unknown>;
  change(json);
  writeFileSync(join(directory, file), JSON.stringify(json));
  return directory;
}

test('a teacher of another shape, with another rope or none is refused before any text is read', () => {
  const wider = variant('wider', (json) => (json['intermediate_size'] = 1024));
  const turned = variant('turned', (json) => (json['rope_theta'] = 5e5));
  const check =
    (choice: TeacherChoice, used = true) =>
    () =>
      checkTeacher(model, choice, used);
  assert.throws(
    check(given(wider)),
    /expected a teacher of the student's shape, with ffn \d+, but .*wider has 1024; check --teacher$/,
  );
  assert.throws(check(given(turned)), /with rope \{"theta":10000.*\}, but .*turned has \{"theta":500000/);
  assert.throws(check(given(join(folder, 'nowhere'))), /expected a model directory or a PEFT folder at .*nowhere, but/);
  assert.throws(check(given(tuned), false), /expected --loss kl or mix beside a teacher/);
  assert.throws(
    check(given(tuned, TINY)),
    /expected a PEFT folder as --teacher beside --teacher-base, but .*tuned has no/,
  );
});

test('a teacher that reads other tokens, or says not which, is refused', async () => {
  const swapped = variant(
    'swapped',
    (json) => {
      const { vocab } = json['model'] as { vocab: Record<string, number> };
      const [one, other] = Object.keys(vocab).slice(1000, 1002) as [string, string];
      [vocab[one], vocab[other]] = [vocab[other] as number, vocab[one] as number];
    },
    'tokenizer.json',
  );
  const wanted = request({ loss: 'kl', steps: 1 });
  await assert.rejects(
    run(model, wanted, { teacher: given(swapped) }),
    /expected a teacher with the student's tokenizer, whose token \d+ is ".*", but in .*swapped it is ".*"/,
  );
  rmSync(join(swapped, 'tokenizer.json'));
  await assert.rejects(run(model, wanted, { teacher: given(swapped) }), /expected a tokenizer.json in .*swapped/);
});

test('on a prepared base, the model that an adapter is for must be named', () => {
  const prepared = variant('prepared', () => undefined);
  writeFileSync(join(prepared, 'maskserve.json'), JSON.stringify({ preparedFrom: { name: 'tiny', base: 'x' } }));
  const base = loadModel(prepared, { threads: 2 });
  const choice: TeacherChoice = { kind: 'tuned', rank: 8, steps: 60, learningRate: 1e-3 };
  try {
    assert.throws(
      () => checkTeacher(base, choice, true),
      /expected --teacher-base DIR, .* is a prepared base, and adapters belong to its original \(tiny\)/,
    );
    checkTeacher(base, { ...choice, base: TINY }, true);
    checkTeacher(base, given(TINY), true);
  } finally {
    base.dispose();
  }
});
