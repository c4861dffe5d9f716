import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { CODEC_ERRORS } from '../../codec/errors.js';
import { makeCorpus, mutatedInput } from './mutate.js';
import { TARGETS } from './targets.js';
import { fuzzTarget } from './watch.js';

/** Longer than any input on a busy machine. */
const HANG_MS = 60_000;

/** Of a set in memory, of version 1, of a chain, and of a reader with weights of other shapes. */
const NOT_OF_A_FILE = ['bad-symbol', 'bad-digest', 'coder-data', 'chain-too-deep', 'weights-mismatch'];

describe('fuzzing', () => {
  it('the decoder finds nothing in 5,000 mutated containers, of which every defect of a file makes some', async () => {
    const report = await fuzzTarget(TARGETS.decoder!, { seed: 3, first: 0, iterations: 5_000 }, { hangMs: HANG_MS });
    assert.deepEqual(report.violations, []);
    assert.equal(report.iterations, 5_000);
    const met = Object.keys(report.outcomes).sort();
    const possible = Object.keys(CODEC_ERRORS).filter((code) => !NOT_OF_A_FILE.includes(code));
    assert.deepEqual(met, [...possible, 'accepted'].sort());
  });

  it('native coders agree with TypeScript on 1,500 mutated containers, decoded, compacted, patched and encoded', async () => {
    const report = await fuzzTarget(TARGETS.native!, { seed: 5, first: 0, iterations: 1_500 }, { hangMs: HANG_MS });
    assert.deepEqual(report.violations, []);
    assert.ok(report.outcomes.accepted! > 20);
  });

  it('the upload path agrees with the decoder on 500 mutated containers', async () => {
    const report = await fuzzTarget(TARGETS.upload!, { seed: 4, first: 0, iterations: 500 }, { hangMs: HANG_MS });
    assert.deepEqual(report.violations, []);
    assert.deepEqual(Object.keys(report.outcomes).sort(), ['accepted', 'invalid_mask', 'parent_unknown', 'wrong_base']);
  });

  it('makes the same input of the same seed and number', () => {
    const corpus = makeCorpus();
    for (const number of [0, 1, 77]) assert.deepEqual(mutatedInput(corpus, 5, number), mutatedInput(corpus, 5, number));
    assert.notDeepEqual(mutatedInput(corpus, 5, 1), mutatedInput(corpus, 6, 1));
  });

  const noticed: readonly [defect: string, violation: RegExp][] = [
    ['throws', /^input 0 \(container \d.*\): TypeError: undefined is not a function/],
    ['hangs', /^input 0: no answer in 1 s: it hangs/],
    ['crashes', /^input 0: the thread ended with code 3/],
    ['hoards', /^resident memory grew by \d+\.\d MB/],
  ];
  for (const [defect, violation] of noticed) {
    it(`notices a target that ${defect}`, async () => {
      const module = new URL(`./broken-target.js?defect=${defect}`, import.meta.url);
      const hangMs = defect === 'hangs' ? 1_000 : HANG_MS;
      const { violations } = await fuzzTarget(module, { seed: 1, first: 0, iterations: 1_500 }, { hangMs });
      assert.match(violations[0] ?? 'none', violation);
    });
  }
});
