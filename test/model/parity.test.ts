/** models/tiny against Hugging Face transformers: perplexity, continuations, tokens. The whole data set: parity.ts. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { native } from '../../kernels/index.js';
import { loadModel, type Model } from '../../server/engine/model.js';
import { checkGreedy, checkLogprobs, checkPerplexity, checkTokens, type Check } from './checks.js';
import { documentsOf, referenceFile, tinyReference } from './reference.js';

const reference = tinyReference();
const TINY = fileURLToPath(new URL('../../../models/tiny', import.meta.url));

describe('models/tiny, compared with transformers', () => {
  let model: Model;
  before(() => {
    model = loadModel(TINY, { threads: 2 });
  });
  after(() => {
    native.setPrecision('bf16');
    model.dispose();
  });

  const excerpt = (tolerance: number): Check => {
    const documents = documentsOf(referenceFile(reference.excerpt.file));
    const settings = { ...reference.settings, windows: 1000 };
    return checkPerplexity(model, 'excerpt', documents, settings, reference.excerpt, tolerance);
  };

  it('cuts twenty prompts into the same tokens', () => {
    assertHolds(checkTokens(model, reference.greedy, reference.settings.bos));
  });

  it('has its perplexity on an excerpt in eight languages within 0.3%', () => {
    native.setPrecision('bf16');
    assertHolds(excerpt(0.003));
  });

  it('has that perplexity to five digits when activations keep fp32', () => {
    native.setPrecision('f32');
    assertHolds(excerpt(1e-5));
    assertHolds(checkLogprobs(model, reference.greedy, 1e-4));
  });

  for (const precision of ['bf16', 'f32'] as const) {
    it(`continues twenty prompts for 32 tokens as transformers does, up to near-ties (${precision})`, () => {
      native.setPrecision(precision);
      reference.greedy.forEach((each) => assertHolds(checkGreedy(model, each)));
    });
  }
});

function assertHolds(check: Check): void {
  assert.ok(check.passed, `${check.what}: ours ${check.ours}, reference ${check.reference}, bar ${check.bar}`);
}
