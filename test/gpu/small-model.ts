/** A model of random weights that takes text, small enough for the stand-in, on which most time goes to the output layer. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeRandomModel } from '../bench/random-model.js';
import { TINY } from '../tiny.js';

/** All bytes, and the first merges of the embedded model. */
const VOCAB = 320;

interface Tokenizer {
  readonly model: { vocab: Record<string, number>; merges: readonly [string, string][] };
}

export function writeSmallModel(directory: string, context: number): void {
  writeRandomModel(directory, { hidden: 64, layers: 2, heads: 4, kvHeads: 2, ffn: 128, vocab: VOCAB, context });
  const tokenizer = JSON.parse(readFileSync(join(TINY, 'tokenizer.json'), 'utf8')) as Tokenizer;
  const { model } = tokenizer;
  model.vocab = Object.fromEntries(Object.entries(model.vocab).filter(([, id]) => id < VOCAB));
  model.merges = model.merges.filter(([left, right]) => left + right in model.vocab);
  writeFileSync(join(directory, 'tokenizer.json'), JSON.stringify(tokenizer));
}
