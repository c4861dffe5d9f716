import assert from 'node:assert/strict';
import { test } from 'node:test';
import { patternTable } from '../../codec/pattern.js';
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import * as gradients from './gradients.js';
import { assertSameBits, floats, fromBf16, random, relativeError, roundedToBf16, weights } from './numbers.js';
import { scoped } from './scope.js';

interface Case {
  readonly n: number;
  readonly m: number;
  readonly groups: number;
  readonly scale: number;
  readonly temperature: number;
}

const CASES: readonly Case[] = [
  { n: 2, m: 4, groups: 1, scale: 100, temperature: 4 },
  { n: 2, m: 4, groups: 64, scale: 100, temperature: 4 },
  { n: 2, m: 4, groups: 150, scale: 500, temperature: 0.05 },
  { n: 1, m: 4, groups: 67, scale: 100, temperature: 1 },
  { n: 4, m: 8, groups: 70, scale: 100, temperature: 2 },
];

const ONE = 0x3f80;

interface Settings {
  readonly seed: number;
  readonly step: number;
  readonly tensor: number;
}

const FIRST: Settings = { seed: 1, step: 0, tensor: 0 };

onEveryIsa(import.meta.url, () => {
  for (const c of CASES) {
    test(`gumbelMask and its gradient with given noise equal their definitions: ${JSON.stringify(c)}`, () => {
      const table = patternTable(c.n, c.m);
      const next = random(c.groups);
      const w = weights(next, c.groups * c.m);
      const logits = floats(next, c.groups * table.count).map((x) => x * 0.03);
      const noise = floats(next, logits.length).map((x) => x * 2);
      const dw = floats(next, w.length);
      const masked = (x: ArrayLike<number>): Float64Array =>
        gradients.gumbelMask(w, x, noise, table.masks, c.m, c.scale, c.temperature);
      const expected = masked(logits);
      scoped((scope) => {
        const [f32, bf16] = [scope.room(w.length * 4), scope.room(w.length * 2)];
        const inputs = [scope.put(w), scope.put(logits), scope.put(noise)] as const;
        const squares = call(f32, 'f32', ...inputs, c, FIRST);
        assert.equal(call(bf16, 'bf16', ...inputs, c, FIRST), squares, 'Σ (w ⊙ M̃)² before rounding');
        const received = scope.floats(f32, w.length);
        // Eq. 6's argument is of the order of scale·π/temperature: its fp32 rounding is the softmax's relative error.
        const tolerance = c.temperature < 1 ? 1e-4 : 2e-6;
        assert.ok(relativeError(received, expected) < tolerance, `error ${relativeError(received, expected)}`);
        assert.deepEqual(Float64Array.from(scope.words(bf16, w.length), fromBf16), roundedToBf16(received));
        assert.ok(Math.abs(squares - gradients.dot(expected, expected)) < tolerance * squares);

        const regularisation = 0.3;
        const dlogits = scope.room(logits.length * 4);
        const loss = (x: ArrayLike<number>): number => {
          const out = masked(x);
          return gradients.dot(out, dw) - regularisation * gradients.dot(out, out);
        };
        backward(dlogits, scope.put(dw), ...inputs, c, FIRST, regularisation);
        const gradient =
          c.groups * table.count > 1000 ? blockwise(c, w, logits, noise, dw, regularisation) : finite(loss, logits);
        const error = relativeError(scope.floats(dlogits, logits.length), gradient);
        assert.ok(error < Math.max(tolerance, 1e-5), `gradient error ${error}`);
      });
    });
  }

  test('the generator is Philox4x32-10: the published vectors', () => {
    const ones = 0xffffffff;
    const vectors = [
      [
        [0, 0, 0, 0],
        [0, 0],
        [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
      ],
      [
        [ones, ones, ones, ones],
        [ones, ones],
        [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
      ],
      [
        [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
        [0xa4093822, 0x299f31d0],
        [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
      ],
    ] as const;
    for (const [counter, key, words] of vectors) assert.deepEqual(gradients.philox(counter, key), [...words]);
  });

  for (const [n, m, groups] of [
    [2, 4, 200],
    [4, 8, 10],
  ] as const) {
    test(`without a buffer the noise of ${n}:${m} is the counter’s: as if it had been given`, () => {
      const c = { n, m, groups, scale: 100, temperature: 4 };
      const settings = { seed: 5 * 2 ** 40 + 3, step: 77, tensor: 9 };
      const patterns = patternTable(n, m).count;
      const noise = Float32Array.from(
        gradients.gumbelNoise(groups, patterns, settings.seed, settings.step, settings.tensor),
      );
      const next = random(50);
      scoped((scope) => {
        const [w, logits] = [
          scope.put(weights(next, groups * m)),
          scope.put(floats(next, noise.length).map((x) => x * 0.03)),
        ];
        const dw = scope.put(floats(next, groups * m));
        const run = (given: Handle): { out: Float32Array; dlogits: Float32Array } => {
          const [out, dlogits] = [scope.room(groups * m * 4), scope.room(noise.length * 4)];
          call(out, 'f32', w, logits, given, c, settings);
          backward(dlogits, dw, w, logits, given, c, settings, 0);
          return { out: scope.floats(out, groups * m), dlogits: scope.floats(dlogits, noise.length) };
        };
        const [drawn, given] = [run(NO_BUFFER), run(scope.put(noise))];
        assert.ok(relativeError(drawn.out, given.out) < 1e-6, 'the mask');
        assert.ok(relativeError(drawn.dlogits, given.dlogits) < 1e-5, 'the gradient sees the same noise');
      });
    });
  }

  test('that noise has the moments of a Gumbel distribution, and no correlation between steps, tensors or seeds', () => {
    const [groups, patterns] = [2500, 6];
    const runs = [
      [1, 0, 0],
      [1, 1, 0],
      [1, 0, 1],
      [2, 0, 0],
    ].map(([seed = 0, step = 0, tensor = 0]) => gradients.gumbelNoise(groups, patterns, seed, step, tensor));
    const count = groups * patterns;
    for (const noise of runs) {
      const mean = noise.reduce((a, b) => a + b, 0) / count;
      const variance = noise.reduce((sum, x) => sum + (x - mean) ** 2, 0) / count;
      assert.ok(Math.abs(mean - 0.5772) < 0.04, `mean ${mean}`);
      assert.ok(Math.abs(variance - Math.PI ** 2 / 6) < 0.12, `variance ${variance}`);
    }
    const [one] = runs;
    assert.ok(one);
    for (const other of runs.slice(1)) {
      const correlation = one.reduce((sum, x, i) => sum + (x - 0.5772) * ((other[i] ?? 0) - 0.5772), 0) / count;
      assert.ok(Math.abs(correlation) < 0.06, `correlation ${correlation}`);
    }
  });

  test('as the temperature falls, patterns are drawn with the probabilities softmax(π·scale)', () => {
    const [groups, scale] = [40_000, 2];
    const probabilities = [0.4, 0.3, 0.15, 0.1, 0.04, 0.01];
    scoped((scope) => {
      const logits = Float32Array.from({ length: groups * 6 }, (_, i) => Math.log(probabilities[i % 6] ?? 0) / scale);
      const out = scope.room(groups * 4 * 4);
      const w = scope.put(new Uint16Array(groups * 4).fill(ONE));
      const c = { n: 2, m: 4, groups, scale, temperature: 1e-3 };
      call(out, 'f32', w, scope.put(logits), NO_BUFFER, c, FIRST);
      const drawn = new Float64Array(6);
      const masks = patternTable(2, 4).symbolOfMask;
      const soft = scope.floats(out, groups * 4);
      for (let g = 0; g < groups; g++) {
        let mask = 0;
        for (let j = 0; j < 4; j++) if ((soft[4 * g + j] ?? 0) > 0.5) mask |= 1 << j;
        const symbol = masks[mask] ?? 255;
        if (symbol < 6) drawn[symbol] = (drawn[symbol] ?? 0) + 1;
      }
      probabilities.forEach((p, i) => {
        const share = (drawn[i] ?? 0) / groups;
        assert.ok(
          Math.abs(share - p) < 4 * Math.sqrt((p * (1 - p)) / groups) + 0.002,
          `${share} of pattern ${i}, ${p} expected`,
        );
      });
    });
  });

  test('results have the same bits on any number of threads', () => {
    const c = { n: 2, m: 4, groups: 9001, scale: 100, temperature: 4 };
    const next = random(60);
    scoped((scope) => {
      const [w, logits] = [scope.put(weights(next, c.groups * 4)), scope.put(floats(next, c.groups * 6))];
      const dw = scope.put(floats(next, c.groups * 4));
      const runs = [1, 2, 5].map((threads) => {
        native.setThreads(threads);
        const [out, dlogits] = [scope.room(c.groups * 8), scope.room(c.groups * 24)];
        const squares = call(out, 'bf16', w, logits, NO_BUFFER, c, FIRST);
        backward(dlogits, dw, w, logits, NO_BUFFER, c, FIRST, 1e-5);
        return { out: scope.words(out, c.groups * 4), dlogits: scope.floats(dlogits, c.groups * 6), squares };
      });
      native.setThreads(0);
      const [one] = runs;
      assert.ok(one);
      for (const other of runs) {
        assertSameBits(other.out, one.out, 'mask');
        assertSameBits(other.dlogits, one.dlogits, 'gradient');
        assert.equal(other.squares, one.squares);
      }
    });
  });

  test('what can’t be right is refused by name', () => {
    scoped((scope) => {
      const [out, w, logits] = [scope.room(64), scope.room(64), scope.room(96)];
      const good = { n: 2, m: 4, groups: 4, scale: 1, temperature: 1 };
      const attempt = (c: Partial<Case>, s: Partial<Settings> = {}, to = out): unknown =>
        call(to, 'f32', w, logits, NO_BUFFER, { ...good, ...c }, { ...FIRST, ...s });
      attempt({});
      assert.throws(() => attempt({ n: 3 }), /gumbelMask: expected n:m to be 1:4, 2:4 or 4:8 but received 3:4/);
      assert.throws(() => attempt({ temperature: 0 }), /gumbelMask: expected temperature above 0 but received 0/);
      assert.throws(() => attempt({ groups: 5 }), /expected out of at least groups·m·4 = 80 bytes but received 64/);
      assert.throws(() => attempt({}, { step: 2 ** 32 }), /expected step of at most 2³² − 1 = 4294967295/);
      assert.throws(() => attempt({}, { seed: -1 }), /expected seed to be an integer of at least 0 but received -1/);
      assert.throws(() => attempt({}, {}, logits), /gumbelMask: expected out and logits to be apart/);
      assert.throws(
        () => backward(logits, out, w, logits, NO_BUFFER, good, FIRST, 0),
        /gumbelMaskBackward: expected dlogits and logits to be apart/,
      );
      assert.throws(
        () => backward(scope.room(96), out, w, logits, NO_BUFFER, good, FIRST, NaN),
        /expected regularisation to be finite/,
      );
    });
  });
});

function call(
  out: Handle,
  type: 'bf16' | 'f32',
  w: Handle,
  logits: Handle,
  noise: Handle,
  c: Case,
  s: Settings,
): number {
  return native.gumbelMask(
    out,
    type,
    w,
    logits,
    noise,
    c.n,
    c.m,
    c.groups,
    c.scale,
    c.temperature,
    s.seed,
    s.step,
    s.tensor,
  );
}

function backward(
  dlogits: Handle,
  dw: Handle,
  w: Handle,
  logits: Handle,
  noise: Handle,
  c: Case,
  s: Settings,
  regularisation: number,
): void {
  const { n, m, groups, scale, temperature } = c;
  native.gumbelMaskBackward(
    dlogits,
    dw,
    w,
    logits,
    noise,
    n,
    m,
    groups,
    scale,
    temperature,
    s.seed,
    s.step,
    s.tensor,
    regularisation,
  );
}

/** Central differences with a step that suits logits multiplied by some hundred. */
function finite(loss: (x: ArrayLike<number>) => number, logits: Float32Array): Float64Array {
  const scale = 1000;
  const scaled = Float64Array.from(logits, (x) => x * scale);
  return gradients.numericGradient((x) => loss(x.map((v) => v / scale)), scaled).map((g) => g * scale);
}

/** The same, group by group: a group's logits move only its own weights. */
function blockwise(
  c: Case,
  w: Uint16Array,
  logits: Float32Array,
  noise: Float32Array,
  dw: Float32Array,
  regularisation: number,
): Float64Array {
  const table = patternTable(c.n, c.m);
  const out = new Float64Array(logits.length);
  for (let g = 0; g < c.groups; g++) {
    const [from, end] = [g * table.count, (g + 1) * table.count];
    const weightsOf = w.subarray(g * c.m, (g + 1) * c.m);
    const loss = (x: ArrayLike<number>): number => {
      const masked = gradients.gumbelMask(
        weightsOf,
        x,
        noise.subarray(from, end),
        table.masks,
        c.m,
        c.scale,
        c.temperature,
      );
      return gradients.dot(masked, dw.subarray(g * c.m)) - regularisation * gradients.dot(masked, masked);
    };
    out.set(finite(loss, logits.subarray(from, end)), from);
  }
  return out;
}
