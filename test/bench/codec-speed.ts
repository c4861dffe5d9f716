/**
 * Speed of the native coders over the matrices of the 162 M model, beside memcpy and zstd in the same run: the least of several runs each, in turns. A group is
 * four weights. Patches are applied in place: no copy of the parent is timed.
 */
import { native, type CodedChunks, type CodedTensor, type PatchedTensor } from '../../kernels/index.js';
import { coderNamed, type CoderName } from '../../codec/coder.js';
import { Random } from '../../server/engine/random.js';
import { zstdSpeeds } from './codec-rivals.js';

export interface CoderSpeed {
  readonly coder: CoderName;
  readonly bitsPerGroup: number;
  /** 10^9 groups a second. */
  readonly decode: number;
  readonly encode: number;
}

export interface SpeedFigures {
  readonly threads: number;
  readonly clock: Clock;
  readonly groups: number;
  readonly coders: readonly CoderSpeed[];
  /** 10^9 groups a second that copying their nibbles takes, one thread. */
  readonly memcpy: number;
  /** zstd -19 and -3 on the nibbles, one thread, 10^9 groups a second. Undefined without the command. */
  readonly zstd: Readonly<Record<'level' | 'encode' | 'decode', number>>[] | undefined;
  readonly patches: readonly PatchSpeed[];
}

export interface PatchSpeed {
  readonly coder: CoderName;
  /** Share of groups that change. */
  readonly churn: number;
  /** 10^9 parameters a second, decoded and applied. */
  readonly rate: number;
}

interface Inputs {
  readonly groups: number;
  readonly cols: number;
  readonly weights: Uint16Array;
  readonly scales: Int16Array;
  readonly parent: Uint8Array;
  /** A mask that differs from the parent in a tenth of the groups. */
  readonly mask: Uint8Array;
}

const DENSE: readonly CoderName[] = ['uniform', 'static', 'parent', 'weights', 'scaled-weights', 'parent+weights'];
const CONTEXTS: Readonly<Partial<Record<CoderName, number>>> = {
  parent: 6,
  weights: 64,
  'scaled-weights': 64,
  'parent+weights': 60,
  patch: 6,
  'patch+weights': 60,
};
const CHURNS = [0.0001, 0.0046, 0.01];
const NIBBLES = [4, 8, 12, 9, 13, 14] as const;
const [COLS, ROWS] = [3072, 36864];
const CHUNK_STEPS = 2 ** 16 / 32;
const FULL_PATCH_CHUNK = 2 ** 13;
const TOTAL = 2 ** 14;
/** Of the nibbles, what zstd is timed on. */
const ZSTD_BYTES = 2 ** 22;

export function measureCodecSpeed(threads: number, runs: number, clock: Clock = 'wall'): SpeedFigures {
  native.setThreads(threads);
  const least = leastOf(runs, clock, native.info().threads);
  const inputs = makeInputs();
  const copy = new Uint8Array(inputs.mask.length);
  const memcpy = rate(
    inputs.groups,
    least(() => copy.set(inputs.mask), 1),
  );
  return {
    threads: native.info().threads,
    clock,
    groups: inputs.groups,
    coders: DENSE.map((coder) => symbolSpeed(coder, inputs, least)),
    memcpy,
    zstd: zstdSpeeds(inputs.mask.subarray(0, ZSTD_BYTES), [3, 19])?.map(({ level, encodeSeconds, decodeSeconds }) => ({
      level,
      encode: rate(2 * ZSTD_BYTES, encodeSeconds),
      decode: rate(2 * ZSTD_BYTES, decodeSeconds),
    })),
    patches: (['patch', 'patch+weights'] as const).flatMap((coder) =>
      CHURNS.map((churn) => patchSpeed(coder, churn, inputs, least)),
    ),
  };
}

function makeInputs(): Inputs {
  const random = new Random(1);
  const groups = (ROWS * COLS) / 4;
  const pool = Uint16Array.from({ length: 1 << 20 }, () => 0x3a00 + Math.floor(random.uniform() * 900));
  const weights = new Uint16Array(4 * groups);
  for (let at = 0; at < weights.length; at += pool.length) weights.set(pool.subarray(0, weights.length - at), at);
  const nibble = (): number => NIBBLES[Math.floor(random.uniform() * 6)] ?? 4;
  const parent = Uint8Array.from({ length: groups / 2 }, () => nibble() | (nibble() << 4));
  const mask = parent.map((byte) => (random.uniform() < 0.2 ? (byte & 15) | (nibble() << 4) : byte));
  return { groups, cols: COLS, weights, scales: new Int16Array(COLS), parent, mask };
}

function symbolSpeed(coder: CoderName, inputs: Inputs, least: Least): CoderSpeed {
  const contexts = CONTEXTS[coder] ?? 1;
  const tensor: CodedTensor = { coder: coderNamed(coder).id, ...inputs };
  const counts = new Uint32Array(8 * contexts);
  native.countSymbols(tensor, counts);
  const cum = coder === 'uniform' ? fitted(new Uint32Array(8), 1) : fitted(counts, contexts);
  const steps = inputs.groups / 32;
  const chunks = Math.ceil(steps / CHUNK_STEPS);
  const payload = new Uint8Array(128 * chunks + 64 * steps);
  const [lengths, checksums, statuses] = [new Uint32Array(chunks), new Uint32Array(chunks), new Int32Array(chunks)];
  let bytes = 0;
  const encodeSeconds = least(() => {
    bytes = native.encodeMasks([{ ...tensor, cum }], CHUNK_STEPS, 0, payload, lengths, checksums);
  });
  const decoded = new Uint8Array(inputs.mask.length);
  const coded: CodedChunks = { payload, lengths, checksums, statuses };
  const decodeSeconds = least(() => {
    native.decodeMasks([{ ...tensor, cum, mask: decoded }], CHUNK_STEPS, 0, coded);
  });
  if (Buffer.compare(decoded, inputs.mask) !== 0) throw new Error(`${coder} decoded to another mask`);
  return {
    coder,
    bitsPerGroup: (8 * bytes) / inputs.groups,
    decode: rate(inputs.groups, decodeSeconds),
    encode: rate(inputs.groups, encodeSeconds),
  };
}

/** One tensor a layer's matrix, changes spread evenly over them. */
function patchSpeed(coder: CoderName, churn: number, inputs: Inputs, least: Least): PatchSpeed {
  const tensors = patchedTensors(coder, churn, inputs);
  const gaps = Uint16Array.from({ length: 65 }, (_, s) => (TOTAL * s) / 64);
  const changes = tensors.reduce((sum, tensor) => sum + tensor.changes, 0);
  const chunks = patchChunks(tensors.map((tensor) => tensor.changes));
  const payload = new Uint8Array(32 * chunks + 10 * changes);
  const [lengths, checksums, statuses] = [new Uint32Array(chunks), new Uint32Array(chunks), new Int32Array(chunks)];
  native.encodePatches(tensors, FULL_PATCH_CHUNK, gaps, payload, lengths, checksums);
  const decoded = tensors.map((tensor) => ({
    ...tensor,
    positions: new Uint32Array(tensor.changes),
    codes: new Uint8Array(tensor.changes),
  }));
  const masks = tensors.map((tensor) => (tensor.parent as Uint8Array).slice());
  const seconds = least(() => {
    native.decodePatches(decoded, FULL_PATCH_CHUNK, gaps, { payload, lengths, checksums, statuses });
    decoded.forEach(({ groups, positions, codes }, i) => {
      const mask = masks[i] ?? new Uint8Array(0);
      native.applyChanges(mask, mask, groups, positions, codes);
    });
  });
  if (statuses.some((status) => status !== 0)) throw new Error(`${coder} at ${churn} does not decode`);
  return { coder, churn, rate: rate(4 * inputs.groups, seconds) };
}

function patchedTensors(coder: CoderName, churn: number, { groups, parent, weights }: Inputs): PatchedTensor[] {
  const random = new Random(2);
  const count = 84;
  const each = Math.floor(groups / count / 2) * 2;
  return Array.from({ length: count }, (_, i) => {
    const own = parent.subarray((i * each) / 2, ((i + 1) * each) / 2);
    const positions: number[] = [];
    for (
      let group = Math.floor(random.uniform() / churn);
      group < each;
      group += 1 + Math.floor((2 * random.uniform()) / churn)
    ) {
      positions.push(group);
    }
    const kept = positions.length > 0 ? positions : [0];
    const codes = kept.map((group) => {
      const before = ((own[group >> 1] ?? 0) >> (4 * (group & 1))) & 15;
      return before === 4 ? 8 : 4;
    });
    const contexts = CONTEXTS[coder] ?? 1;
    return {
      coder: coderNamed(coder).id,
      groups: each,
      cols: 4 * each,
      cum: fitted(new Uint32Array(8 * contexts), contexts),
      weights: weights.subarray(4 * i * each, 4 * (i + 1) * each),
      parent: own,
      changes: kept.length,
      positions: Uint32Array.from(kept),
      codes: Uint8Array.from(codes),
    };
  });
}

function patchChunks(changes: readonly number[]): number {
  let [chunks, filled] = [1, 0];
  for (const count of changes) {
    if (filled >= FULL_PATCH_CHUNK) [chunks, filled] = [chunks + 1, 0];
    filled += count;
  }
  return chunks;
}

/** Boundaries (contexts, 7) for counts (contexts, 8), every symbol possible. */
function fitted(counts: Uint32Array, contexts: number): Uint16Array {
  const cum = new Uint16Array(7 * contexts);
  for (let context = 0; context < contexts; context++) {
    const row = Array.from({ length: 6 }, (_, s) => (counts[8 * context + s] ?? 0) + 1);
    const sum = row.reduce((total, count) => total + count, 0);
    let before = 0;
    row.forEach((count, s) => {
      before += count;
      cum[7 * context + s + 1] = Math.round(((TOTAL - 6) * before) / sum) + s + 1;
    });
    cum[7 * context + 6] = TOTAL;
  }
  return cum;
}

/** What a run takes: seconds on the clock, or, on a machine that others use too, those that `threads` processors worked for it. */
export type Clock = 'wall' | 'cpu';

type Least = (run: () => void, threads?: number) => number;

/** Seconds of the quickest of `runs` runs. */
function leastOf(runs: number, clock: Clock, allThreads: number): Least {
  return (run, threads = allThreads) => {
    let best = Infinity;
    for (let i = 0; i < runs; i++) {
      const [started, before] = [performance.now(), process.cpuUsage()];
      run();
      const { user, system } = process.cpuUsage(before);
      best = Math.min(best, clock === 'wall' ? (performance.now() - started) / 1e3 : (user + system) / threads / 1e6);
    }
    return best;
  };
}

function rate(items: number, seconds: number): number {
  return items / seconds / 1e9;
}

export function speedTable(speed: SpeedFigures): string {
  const line = (name: string, text: string): string => `  ${name.padEnd(22)} ${text}`;
  return [
    `\nnative coders, ${(speed.groups / 1e6).toFixed(1)} M groups, ${speed.threads} threads${speed.clock === 'cpu' ? ' (CPU time ÷ threads: others use the machine too)' : ''}; 10^9 groups a second:`,
    ...speed.coders.map(({ coder, bitsPerGroup, decode, encode }) =>
      line(
        coder,
        `decode ${decode.toFixed(2)} · encode ${encode.toFixed(2)} · ${(bitsPerGroup / 4).toFixed(4)} bit/param`,
      ),
    ),
    line('memcpy of the nibbles', `${speed.memcpy.toFixed(2)}`),
    ...(speed.zstd?.map(({ level, encode, decode }) =>
      line(`zstd -${level}, one thread`, `decode ${decode.toFixed(2)} · encode ${encode.toPrecision(2)}`),
    ) ?? [line('zstd', 'skipped: the zstd command is not there')]),
    'patches, decoded and applied in place; 10^9 parameters a second:',
    ...speed.patches.map(({ coder, churn, rate: speedOf }) =>
      line(coder, `${(100 * churn).toFixed(2)}% changed: ${speedOf.toFixed(1)}`),
    ),
  ].join('\n');
}
