/** Every argument of every op, wrong in every way: a TypeError or RangeError that names the op and the argument. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import { rightCalls, type Argument, SETTINGS } from './op-arguments.js';
import { Scope } from './scope.js';

const scope = new Scope();
const folder = mkdtempSync(join(tmpdir(), 'maskserve-arguments-'));
const zeros = join(folder, 'zeros');
writeFileSync(zeros, new Uint8Array(1 << 16));
const mapping = native.mapFile(zeros, 0, 1 << 16);
after(() => {
  scope.close();
  native.free(mapping);
  rmSync(folder, { recursive: true });
});
const OPS = rightCalls(scope);

/** Of `sample`, but for one of the second row. */
function settings(at: number, value: number): Float64Array {
  return SETTINGS.with(4 + at, value);
}

const addon = native as unknown as Readonly<Record<string, (...args: unknown[]) => unknown>>;

function call(op: string, args: readonly unknown[]): unknown {
  const f = addon[op];
  assert.ok(f !== undefined, op);
  return f(...args);
}

/** Right arguments, buffers exactly as large as they must be. */
function rightArguments(op: string, list: readonly Argument[]): unknown[] {
  return list.map((argument) => {
    if (!('bytes' in argument)) return argument.value;
    const fill = op.endsWith('24') && ['meta', 'packed'].includes(argument.name) ? 0x44 : 0; // zeros name no pattern
    return scope.put(new Uint8Array(argument.bytes).fill(fill));
  });
}

function refuses(op: string, args: readonly unknown[], at: number, bad: unknown, name: string, kinds: string[]): void {
  const changed = args.map((arg, i) => (i === at ? bad : arg));
  assert.throws(
    () => call(op, changed),
    (error: Error) => {
      assert.ok(kinds.includes(error.name), `${op}(${name} = ${String(bad)}): ${String(error)}`);
      assert.ok(error.message.startsWith(`${op}: expected`), error.message);
      assert.match(error.message, new RegExp(`\\b${name}\\b`), `${op} names ${name}`);
      assert.ok(!error.message.includes('\n'));
      return true;
    },
    `${op}(${name} = ${String(bad)}) is refused`,
  );
}

for (const [op, list] of Object.entries(OPS)) {
  test(`${op} refuses wrong arguments and takes right ones`, () => {
    const args = rightArguments(op, list);
    call(op, args);
    list.forEach((argument, at) => {
      for (const bad of [undefined, null, {}, () => 0, Symbol.iterator]) {
        refuses(op, args, at, bad, argument.name, ['TypeError']);
      }
      if ('bytes' in argument) checkBuffer(op, args, at, argument);
      else if (argument.kind === 'text') refuses(op, args, at, 'f64', 'type', ['RangeError']);
      else if (argument.kind === 'array') checkArray(op, args, at, argument.name);
      else checkNumber(op, args, at, argument);
    });
    assert.throws(() => call(op, args.slice(1)), {
      name: 'TypeError',
      message: /^\w+: expected \d+ arguments but received/,
    });
    assert.throws(() => call(op, [...args, 1]), {
      name: 'TypeError',
      message: /^\w+: expected \d+ arguments but received/,
    });
    call(op, args);
  });
}

function checkBuffer(
  op: string,
  args: readonly unknown[],
  at: number,
  argument: { name: string; kind: string; bytes: number; align: number },
): void {
  const stale = native.alloc(argument.bytes);
  native.free(stale);
  const optional = argument.kind.startsWith('optional');
  for (const bad of [stale, -1, 1.5, NaN, Infinity, 2 ** 53, 2 ** 30, ...(optional ? [] : [0])]) {
    refuses(op, args, at, bad, argument.name, ['TypeError']);
  }
  refuses(op, args, at, String(args[at]), argument.name, ['TypeError']);
  const short = native.view(args[at] as Handle, 0, argument.bytes - 1);
  refuses(op, args, at, short, argument.name, ['RangeError']);
  native.free(short);
  if (argument.align > 1) {
    const room = native.alloc(argument.bytes + 1);
    const crooked = native.view(room, 1, argument.bytes);
    refuses(op, args, at, crooked, argument.name, ['RangeError']);
    native.free(crooked);
    native.free(room);
  }
  if (argument.kind === 'out' || argument.kind === 'optionalOut') {
    refuses(op, args, at, mapping, argument.name, ['TypeError']);
  }
  if (optional)
    call(
      op,
      args.map((arg, i) => (i === at ? 0 : arg)),
    );
}

function checkNumber(op: string, args: readonly unknown[], at: number, argument: { name: string; kind: string }): void {
  refuses(op, args, at, '1', argument.name, ['TypeError']);
  refuses(op, args, at, NaN, argument.name, ['RangeError']);
  refuses(op, args, at, Infinity, argument.name, ['RangeError']);
  if (argument.kind === 'number') return;
  refuses(op, args, at, -1, argument.name, ['RangeError']);
  refuses(op, args, at, 1.5, argument.name, ['RangeError']);
  if (argument.kind === 'count') refuses(op, args, at, 0, argument.name, ['RangeError']);
  // Absurd but whole: refused for some buffer that is too short, without overflow on the way.
  if (argument.name === 'topK' || argument.name === 'window') return;
  for (const huge of [2 ** 31, 2 ** 32 + 16, 2 ** 40, Number.MAX_SAFE_INTEGER - 7]) {
    if (op === 'sparsegpt24' && argument.name === 'tokens') continue; // only divides
    refuses(op, args, at, huge, 'expected', ['RangeError']);
  }
}

function checkArray(op: string, args: readonly unknown[], at: number, name: string): void {
  refuses(op, args, at, [1, 2, 3], name, ['TypeError']);
  refuses(op, args, at, new Uint8Array(3), name, ['TypeError']);
  if (name !== 'ids') {
    refuses(
      op,
      args,
      at,
      new (Object.getPrototypeOf(args[at]) as { constructor: Float64ArrayConstructor }).constructor(2),
      name,
      ['RangeError'],
    );
    return;
  }
  if (op === 'topLogprobs') return; // written, not read
  refuses(op, args, at, Int32Array.of(1, 5, 2), name, ['RangeError']);
  refuses(op, args, at, Int32Array.of(-1, 1, 2), name, ['RangeError']);
}

test('values outside their range are refused by name', () => {
  const cases: readonly (readonly [string, number, number | string | Int32Array | Float64Array, RegExp])[] = [
    ['rmsnorm', 5, -1, /eps of at least 0/],
    ['rope', 6, 5, /even headDim/],
    ['kvWrite', 2, 7, /start \+ tokens of at most capacity = 8 but received 9/],
    ['attention', 4, 7, /start \+ tokens of at most capacity = 8 but received 9/],
    ['attendRows', 12, 5, /even headDim/],
    ['attendRows', 11, 3, /heads to be a multiple of kvHeads but received 4 and 3/],
    ['attendRows', 8, Int32Array.of(0, 8, 2), /positions of at most capacity − 1 = 7 but received 8/],
    ['attendRows', 8, Int32Array.of(0, -1, 2), /positions of at least 0 but received -1/],
    ['attendRows', 9, Int32Array.of(8, 9, 8), /keys of at least KV·capacity·hd·4 = 432 aligned bytes but received 384/],
    ['kvWrite', 7, 'f16', /type to be 'f32' or 'bf16' but received 'f16'/],
    ['attention', 7, 3, /heads to be a multiple of kvHeads but received 4 and 3/],
    ['matmul24', 5, 12, /k to be a multiple of 8 but received 12/],
    ['matmul24Patched', 6, 12, /k to be a multiple of 8/],
    ['matmulMasked', 6, 12, /k to be a multiple of 8/],
    ['matmul24Fused', 2, 12, /k to be a multiple of 8/],
    ['nibbles24', 3, 12, /k to be a multiple of 8/],
    ['codes24', 3, 12, /k to be a multiple of 8/],
    ['patchBytes24', 3, 12, /k to be a multiple of 8/],
    ['buildPatch24', 5, 12, /k to be a multiple of 8/],
    ['compress24', 4, 12, /k to be a multiple of 8/],
    ['select24', 4, 12, /k to be a multiple of 8/],
    ['scoreMask24', 4, 12, /k to be a multiple of 8/],
    ['sparsegpt24', 6, 12, /k to be a multiple of 8/],
    ['sparsegpt24', 7, -0.1, /damp of at least 0/],
    ['sample', 2, settings(0, -1), /temperature of at least 0/],
    ['sample', 2, settings(0, NaN), /temperature of at least 0/],
    ['sample', 2, settings(1, 0.5), /topK to be a whole number from 0/],
    ['sample', 2, settings(2, 0), /topP in \(0, 1\]/],
    ['sample', 2, settings(2, 1.1), /topP in \(0, 1\]/],
    ['sample', 2, settings(3, 1), /uniform in \[0, 1\)/],
    ['sample', 2, settings(3, -0.1), /uniform in \[0, 1\)/],
    ['sample', 3, Int32Array.of(2, 0, 2), /counts of at most the ids that are left = 1 but received 2/],
    ['sample', 3, Int32Array.of(2, 0, 0), /ids to be as many as counts say but received 3/],
    ['sample', 4, Int32Array.of(4, 4, 4), /ids to name a token once a row but received 4/],
  ];
  for (const [op, at, bad, message] of cases) {
    const args = rightArguments(op, OPS[op] ?? []);
    args[at] = bad;
    assert.throws(() => call(op, args), { name: 'RangeError', message });
  }
});

test('sizes in messages are spelled out', () => {
  const args = rightArguments('matmul', OPS['matmul'] ?? []);
  args[2] = scope.room(95);
  assert.throws(
    () => call('matmul', args),
    /^RangeError: matmul: expected w of at least N·K·2 = 96 bytes but received 95$/,
  );
});

test('outputs may not overlap inputs, except where an op works in place', () => {
  const all = scope.room(1 << 12);
  const part = (offset: number, bytes: number): Handle => native.view(all, offset, bytes);
  const [a, b, c, d] = [part(0, 256), part(128, 256), part(1024, 256), part(2048, 512)];
  const overlap = { name: 'RangeError', message: /to be apart but received overlapping buffers$/ };
  assert.throws(() => native.matmul(a, b, c, 2, 32, 2), overlap);
  assert.throws(() => native.matmul(a, c, b, 2, 32, 2), overlap);
  assert.throws(() => native.matmulFused(c, 1, 2, a, d, 40, b, d, 8, NO_BUFFER, NO_BUFFER, 0), overlap);
  assert.throws(() => native.matmulFused(c, 1, 2, a, b, 40, d, c, 1, NO_BUFFER, NO_BUFFER, 0), overlap);
  assert.throws(() => native.rmsnorm(a, b, c, 2, 32, 1e-5), overlap);
  assert.throws(() => native.siluMul(a, b, c, 64), overlap);
  assert.throws(() => native.add(a, b, 64), overlap);
  assert.throws(() => native.toF32(a, b, 'f32', 64), overlap);
  assert.throws(() => native.compress24(a, a, c, 1, 128), overlap);
  native.rmsnorm(a, a, c, 2, 32, 1e-5);
  native.siluMul(a, a, c, 64);
  native.add(a, a, 64);
  for (const handle of [a, b, c, d]) native.free(handle);
});

test('setThreads and setPrecision take what they name and nothing else', () => {
  const threads = native.info().threads;
  native.setThreads(5);
  assert.equal(native.info().threads, 5);
  native.setThreads(0);
  assert.equal(native.info().threads, threads);
  for (const bad of [-1, 1.5, NaN, 100000, 2 ** 40]) {
    assert.throws(() => native.setThreads(bad), { name: 'RangeError', message: /^setThreads: expected threads/ });
  }
  assert.throws(() => call('setThreads', ['2']), { name: 'TypeError' });
  assert.throws(
    () => call('setPrecision', ['f16']),
    /^RangeError: setPrecision: expected precision to be 'bf16' or 'f32'/,
  );
});
