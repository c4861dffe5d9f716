/** models/tiny on the GPU continues prompts as on the CPU, up to near-ties. */
import assert from 'node:assert/strict';
import { symbolsToNibbles } from '../../codec/pattern.js';
import { native, type BackendName } from '../../kernels/index.js';
import { KvCache } from '../../server/engine/kv-cache.js';
import { loadModel, type Model } from '../../server/engine/model.js';
import type { TaskWeights } from '../../server/engine/types.js';
import { shippedSet } from '../shipped-masks.js';
import { TINY } from '../tiny.js';
import { gpuTest, onStandIn, runningOn } from './gpu.js';

const TOKENS = onStandIn ? 3 : 24;
/** Logits, in nats: what bf16 activations may turn round. */
const NEAR_TIE = 0.1;
const ALL_PROMPTS = [
  'function add(a, b) {',
  'const fs = require(',
  'export interface Options {',
  'declare function parse(',
  '# Getting started\n',
  '## Installation\n\n```sh\n',
  '#include <stdio.h>\n',
  'static int parse(const char *',
  'typedef struct {',
  'def main():\n',
  'import os\n',
  'class Reader(object):\n',
  'La mémoire',
  'Le roi entra dans la',
  'Il était une fois',
  'Der Mann ging in',
  'Es war einmal',
  'The old man looked at',
  'It was a dark and',
  'In the beginning',
];

const PROMPTS = onStandIn ? ALL_PROMPTS.slice(-1) : ALL_PROMPTS;

/** Continuations, and at each step how much more likely the CPU found its token than each other one. */
interface Steps {
  readonly tokens: readonly number[];
  readonly logits: readonly Float32Array[];
}

for (const task of ['dense', 'general'] as const) {
  gpuTest(`greedy text of ${PROMPTS.length} prompts, ${task}, equals the CPU's up to near-ties`, () => {
    const expected = continuations('cpu', task);
    const actual = continuations('cuda', task);
    expected.forEach(({ tokens, logits }, prompt) => {
      const step = tokens.findIndex((token, i) => token !== actual[prompt]!.tokens[i]);
      if (step < 0) return;
      const other = actual[prompt]!.tokens[step]!;
      const margin = logits[step]![tokens[step]!]! - logits[step]![other]!;
      assert.ok(
        margin < NEAR_TIE,
        `${JSON.stringify(PROMPTS[prompt])}: expected token ${tokens[step]} at step ${step} but received ${other}, ${margin.toFixed(3)} nats below it`,
      );
    });
  });
}

function continuations(backend: BackendName, task: 'dense' | 'general'): Steps[] {
  return runningOn(backend, () => {
    const model = loadModel(TINY);
    const weights = task === 'dense' ? null : compacted(model);
    try {
      return PROMPTS.map((prompt) => greedy(model, weights, prompt));
    } finally {
      for (const { packed } of Object.values(weights?.matrices ?? {})) native.free(packed);
      model.dispose();
    }
  });
}

function compacted(model: Model): TaskWeights {
  const { masks } = shippedSet('general');
  const matrices = model.info.maskable.map(({ name, rows, cols, weight }) => {
    const symbols = masks.find((mask) => mask.name === name)!.symbols;
    const [meta, packed] = [native.alloc((rows * cols) / 8), native.alloc(native.packedBytes(rows, cols))];
    native.write(meta, 0, symbolsToNibbles(symbols));
    native.compress24(packed, weight, meta, rows, cols);
    native.free(meta);
    return [name, { packed }] as const;
  });
  return { digest: '', matrices: Object.fromEntries(matrices), bytes: 0 };
}

function greedy(model: Model, task: TaskWeights | null, prompt: string): Steps {
  const { vocab } = model.config;
  const ids = Int32Array.from(model.tokenizer!.encode(prompt, true));
  const cache = new KvCache(model.config, ids.length + TOKENS);
  const [tokens, logits]: [number[], Float32Array[]] = [[], []];
  try {
    for (let chunk = ids; tokens.length < TOKENS; chunk = Int32Array.of(tokens.at(-1)!)) {
      model.forward.run(chunk, cache, task);
      model.forward.head(chunk.length - 1, 1);
      const row = new Float32Array(vocab);
      native.read(model.forward.logits, 0, row);
      logits.push(row);
      tokens.push(native.argmax(model.forward.logits, 0, vocab));
    }
    return { tokens, logits };
  } finally {
    cache.dispose();
  }
}
