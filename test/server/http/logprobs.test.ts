import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { TokenLogprob } from '../../../server/engine/types.js';
import { chatLogprobs, completionLogprobs, tokenBytes } from '../../../server/http/logprobs.js';
import { TextOffsets } from '../../../server/http/text-offsets.js';

const token = (
  id: number,
  text: string,
  logprob: number | null,
  top: [number, string, number][] = [],
): TokenLogprob => ({
  id,
  text,
  logprob,
  top: top.map(([topId, topText, topLogprob]) => ({ id: topId, text: topText, logprob: topLogprob })),
});

const topOf = (one: TokenLogprob): Record<string, number> | null | undefined =>
  completionLogprobs([one], [0]).top_logprobs[0];

describe('top_logprobs', () => {
  it('have the token itself, also where it is none of the likeliest', () => {
    assert.deepEqual(topOf(token(7, 'x', -5, [[1, 'a', -0.1]])), { a: -0.1, x: -5 });
    assert.deepEqual(topOf(token(7, 'x', -5)), { x: -5 });
  });

  it('have the very same double for it', () => {
    const logprob = -0.12345678901234;
    assert.equal(topOf(token(7, 'x', logprob, [[7, 'x', -0.12345678901235]]))?.['x'], logprob);
  });

  it('keep tokens of the same text apart', () => {
    const top = topOf(token(7, 'x', -3, [[8, 'x', -1], [9, 'y', -2], [10, 'y', -2.5]])); // prettier-ignore
    assert.deepEqual(top, { 'token_id:8': -1, y: -2, 'token_id:10': -2.5, x: -3 });
  });

  it('are null where the token has no log-probability', () => {
    assert.equal(topOf(token(0, 'x', null, [[1, 'a', -1]])), null);
  });

  it('say −9999 for what can’t come, as JSON has no −∞', () => {
    const { token_logprobs, top_logprobs } = completionLogprobs([token(7, 'x', -Infinity, [[1, 'a', -Infinity]])], [0]);
    assert.deepEqual(token_logprobs, [-9999]);
    assert.deepEqual(top_logprobs, [{ a: -9999, x: -9999 }]);
  });

  it('survive any text as a key', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(50), fc.constantFrom('a', '', '__proto__', '1', 'é'))), (alternatives) => {
        const top = alternatives.map(([id, text], i): [number, string, number] => [id, text, -i]);
        const came = JSON.parse(JSON.stringify(topOf(token(99, '__proto__', -1, top)))) as Record<string, number>;
        assert.equal(Object.entries(came).find(([key]) => key === '__proto__')?.[1], -1);
      }),
    );
  });
});

describe('chat log-probabilities', () => {
  it('have each token’s bytes', () => {
    const [entry] = chatLogprobs([token(7, 'bytes:\\xe6\\x97', -1, [[8, 'é', -0.5]])]);
    assert.deepEqual(entry, {
      token: 'bytes:\\xe6\\x97',
      logprob: -1,
      bytes: [0xe6, 0x97],
      top_logprobs: [{ token: 'é', logprob: -0.5, bytes: [0xc3, 0xa9] }],
    });
  });

  it('take a text that only looks like a label for what it is', () => {
    assert.equal(tokenBytes('bytes:\\x41').toString(), 'bytes:\\x41');
    assert.deepEqual([...tokenBytes('bytes:\\xff')], [0xff]);
  });
});

describe('text_offset', () => {
  /** Labels a piece of bytes as the engine does. */
  const label = (bytes: Buffer): string => {
    const text = bytes.toString();
    return Buffer.from(text).equals(bytes)
      ? text
      : `bytes:${[...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`;
  };

  it('is where the token’s first whole character stands, however the bytes are cut', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme-composite', minLength: 1, maxLength: 20 }),
        fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 80, maxLength: 80 }),
        fc.boolean(),
        (text, cuts, asPrompt) => {
          const bytes = Buffer.from(text);
          const tokens: TokenLogprob[] = [];
          const starts: number[] = [];
          for (let at = 0, i = 0; at < bytes.length; at += cuts[i++] as number) {
            tokens.push(token(i, label(bytes.subarray(at, at + (cuts[i] as number))), -1));
            starts.push(at);
          }
          const offsets = new TextOffsets(new Set());
          const found = asPrompt ? offsets.prompt(tokens, text) : offsets.generated(tokens);
          const characters = [...text];
          starts.forEach((start, i) => {
            const before = Buffer.from(characters.slice(0, found[i]).join('')).length;
            const next = Buffer.from(characters.slice(0, (found[i] as number) - 1).join('')).length;
            assert.ok(before >= start && (before === start || next < start), `${text} ${i}`);
          });
        },
      ),
    );
  });

  it('gives no room to what the tokenizer added, and goes on after the prompt', () => {
    const offsets = new TextOffsets(new Set([1]));
    const tokens = [token(0, '<s>', null), token(5, ' Où', -1), token(6, ' est', -1)];
    assert.deepEqual(offsets.prompt(tokens, 'Où est'), [0, 0, 2]);
    assert.deepEqual(offsets.generated([token(1, '</s>', -1), token(7, ' là', -1), token(8, '.', -1)]), [6, 6, 9]);
  });
});
