/**
 * Compares the engine with Hugging Face transformers on real models and prints a table; exits with 1 when a bar is missed.
 *
 *     npm run build && node dist/test/model/parity.js --data DIR [--smollm2 DIR] [--tiny DIR] [--one-shot] [--precision bf16|f32] [--threads N] [--json FILE]
 *
 * --data: folder of DOMAIN.valid.jsonl files, the ones the reference was computed on (without it no perplexities but the excerpt's).
 * --smollm2: SmolLM2-135M-Instruct as a Hugging Face directory. --tiny: models/tiny unless given.
 * --one-shot: prune models/tiny with every method (calibrated on DATA/DOMAIN.train.jsonl) and compare with the yardstick's masks.
 * --precision f32: matmuls keep fp32 activations, to tell rounding from mistakes. The default is what the server runs.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { native } from '../../kernels/index.js';
import { loadModel, type Model } from '../../server/engine/model.js';
import { checkChat, checkGreedy, checkLogprobs, checkPerplexity, checkTokens, type Check } from './checks.js';
import { checkOneShot } from './one-shot-checks.js';
import { documentsOf, referenceFile, smollm2Reference, tinyReference, type Reference } from './reference.js';

const TINY_TOLERANCE = 0.003;
const SMOLLM2_TOLERANCE = 0.005;
/** Of single tokens: bf16 rounding of activations moves a logit of size 10 by a few hundredths. */
const LOGPROB_TOLERANCE = { bf16: 0.1, f32: 0.001 };

const { values: options } = parseArgs({
  options: {
    data: { type: 'string' },
    tiny: { type: 'string', default: fileURLToPath(new URL('../../../models/tiny', import.meta.url)) },
    smollm2: { type: 'string' },
    precision: { type: 'string', default: 'bf16' },
    threads: { type: 'string', default: '0' },
    'one-shot': { type: 'boolean', default: false },
    json: { type: 'string' },
  },
});

main();

function main(): void {
  const precision = precisionOf(options.precision);
  const checks: (Check & { model: string })[] = [];
  const run = (name: string, directory: string, checksOf: (model: Model) => Iterable<Check>): void => {
    const model = loadModel(directory, { threads: Number(options.threads) });
    native.setPrecision(precision);
    try {
      for (const check of checksOf(model)) {
        checks.push({ model: name, ...check });
        print(name, check);
      }
    } finally {
      model.dispose();
    }
  };
  run('tiny', options.tiny, tinyChecks);
  if (options.smollm2) run('smollm2', options.smollm2, smollm2Checks);

  const missed = checks.filter((check) => !check.passed);
  const { isa, threads } = native.info();
  console.log(
    `${checks.length - missed.length} of ${checks.length} bars hold (${precision}, ${isa}, ${threads} threads)`,
  );
  if (options.json) writeFileSync(options.json, JSON.stringify({ precision, isa, threads, checks }, null, 1));
  process.exitCode = missed.length > 0 ? 1 : 0;

  function* tinyChecks(model: Model): Generator<Check> {
    const reference = tinyReference();
    yield* promptChecks(model, reference);
    const { excerpt, settings } = reference;
    const documents = documentsOf(referenceFile(excerpt.file));
    yield checkPerplexity(
      model,
      'perplexity, excerpt',
      documents,
      { ...settings, windows: 1000 },
      excerpt,
      TINY_TOLERANCE,
    );
    yield* perplexities(model, reference, TINY_TOLERANCE);
    if (options.data && options['one-shot']) yield* checkOneShot(model, options.data, reference.settings);
  }

  function* smollm2Checks(model: Model): Generator<Check> {
    const reference = smollm2Reference();
    yield checkChat(model, reference.chat);
    yield* promptChecks(model, reference);
    yield* perplexities(model, reference, SMOLLM2_TOLERANCE);
  }

  function* promptChecks(model: Model, reference: Reference): Generator<Check> {
    yield checkTokens(model, reference.greedy, reference.settings.bos);
    yield checkLogprobs(model, reference.greedy, LOGPROB_TOLERANCE[precision]);
    for (const each of reference.greedy) yield checkGreedy(model, each);
  }
}

function precisionOf(text: string): 'bf16' | 'f32' {
  if (text === 'bf16' || text === 'f32') return text;
  throw new Error(`expected --precision to be bf16 or f32 but received "${text}"`);
}

function* perplexities(model: Model, reference: Reference, tolerance: number): Generator<Check> {
  if (!options.data) return;
  for (const [domain, expected] of Object.entries(reference.perplexity)) {
    const documents = documentsOf(join(options.data, `${domain}.valid.jsonl`));
    yield checkPerplexity(model, `perplexity, ${domain}`, documents, reference.settings, expected, tolerance);
  }
}

function print(model: string, { passed, what, ours, reference, bar }: Check): void {
  console.log(
    `${passed ? 'ok  ' : 'MISS'} ${model.padEnd(8)}${what.padEnd(52)}${ours.padEnd(36)}${reference.padEnd(42)}${bar}`,
  );
}
