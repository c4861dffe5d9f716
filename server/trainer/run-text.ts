/** The text of a run: token streams to train on, windows held out, and a digest of all of it, so that a resumed run is known to see the same. */
import { createHash } from 'node:crypto';
import { tokenStream } from '../engine/evaluate.js';
import type { Model } from '../engine/model.js';
import { requireLength, splitStream } from './streams.js';
import type { TrainSource } from './types.js';

/** Times the tokens that a run draws from a source: enough for sequences that seldom overlap, so that of a large corpus only a sample is tokenised. */
const TOKENS_TO_DRAW_FROM = 4;
/** Of which about a twentieth is held out; looks are at a quarter of that, spread over it, so that no long document decides alone. */
const HELD_OUT_PART = 20;
const HELD_OUT_SPREAD = 4;

export interface TextSettings {
  readonly steps: number;
  readonly batch: number;
  readonly seq: number;
  readonly seed: number;
  readonly evaluateWindows: number;
  readonly separator?: number;
  readonly bos: boolean;
}

export interface HeldOutText {
  readonly source: string;
  /** True: text of another domain. */
  readonly guard: boolean;
  /** (seq + 1) ids each */
  readonly windows: readonly Int32Array[];
}

export interface RunText {
  readonly streams: readonly Int32Array[];
  /** Own sources first, then guards. */
  readonly heldOut: readonly HeldOutText[];
  readonly trainTokens: number;
  readonly heldOutTokens: number;
  /** sha256 of every stream. */
  readonly digest: string;
}

export interface TextRequest {
  readonly sources: readonly TrainSource[];
  /** Text that is only looked at. */
  readonly guards: readonly TrainSource[];
}

/** Tokenises and splits. Throws one line that names a source with too little text for one sequence to train on and one window held out. */
export function readRunText(
  model: Model,
  { sources, guards }: TextRequest,
  settings: TextSettings,
  onSource?: (done: number, of: number) => void,
): RunText {
  const of = sources.length + guards.length;
  const splits = sources.map(({ documents }, index) => {
    onSource?.(index, of);
    return splitStream(model, documents, settings.seed, {
      ...streamOptions(settings),
      limit: tokensToRead(settings, sources.length),
    });
  });
  const streams = splits.map(({ train }) => train);
  requireLength(
    streams,
    sources.map(({ name }) => name),
    settings.seq,
  );
  const own = splits.map(({ heldOut }, i) =>
    heldOutText(
      sources[i] as TrainSource,
      heldOut,
      settings,
      spreadWindows,
      'held-out text (a twentieth of its documents)',
    ),
  );
  const others = guards.map((guard, index) => {
    onSource?.(sources.length + index, of);
    const limit = settings.evaluateWindows * settings.seq + 1;
    const stream = tokenStream(model, guard.documents, { ...streamOptions(settings), limit });
    return { ...heldOutText(guard, stream, settings, firstWindows, 'text'), guard: true };
  });
  const heldOut = [...own, ...others];
  const windows = heldOut.flatMap((text) => text.windows);
  return {
    streams,
    heldOut,
    trainTokens: streams.reduce((sum, ids) => sum + ids.length, 0),
    heldOutTokens: windows.length * settings.seq,
    digest: digestOf([...streams, ...windows]),
  };
}

function streamOptions({ separator, bos }: TextSettings): { bos: boolean; separator?: number } {
  return { bos, ...(separator === undefined ? {} : { separator }) };
}

function tokensToRead({ steps, batch, seq, evaluateWindows }: TextSettings, sources: number): number {
  const drawn = Math.ceil((steps * batch * seq) / sources);
  const heldOut = HELD_OUT_SPREAD * (evaluateWindows * seq + 1);
  return Math.max(TOKENS_TO_DRAW_FROM * drawn, HELD_OUT_PART * heldOut);
}

function heldOutText(
  { name }: TrainSource,
  stream: Int32Array,
  { seq, evaluateWindows }: TextSettings,
  choose: typeof firstWindows,
  kind: string,
): HeldOutText {
  const available = Math.floor((stream.length - 1) / seq);
  if (available < 1) {
    throw new Error(
      `expected more than ${seq} tokens of ${kind} in ${name}, but it has ${stream.length}; add text, or lower --seq`,
    );
  }
  const indices = choose(available, Math.min(evaluateWindows, available));
  return { source: name, guard: false, windows: indices.map((i) => stream.subarray(i * seq, (i + 1) * seq + 1)) };
}

/** What `maskctl eval --windows` scores. */
function firstWindows(_available: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

function spreadWindows(available: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => Math.floor((i * available) / count));
}

function digestOf(streams: readonly Int32Array[]): string {
  const hash = createHash('sha256');
  for (const ids of streams) {
    hash.update(`${ids.length}\n`);
    hash.update(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength));
  }
  return hash.digest('hex');
}
