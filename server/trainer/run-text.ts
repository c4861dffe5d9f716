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
  /** Share of a step's sequences that come from guards; 0 or undefined: they are only looked at, from their first token on. */
  readonly guardShare?: number;
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
  /** To train on, of guards; none if they are only looked at. */
  readonly guardStreams: readonly Int32Array[];
  /** Own sources first, then guards. */
  readonly heldOut: readonly HeldOutText[];
  readonly trainTokens: number;
  readonly heldOutTokens: number;
  /** sha256 of every stream. */
  readonly digest: string;
}

export interface TextRequest {
  readonly sources: readonly TrainSource[];
  /** Text of other domains. */
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
  const own = sources.map((source, index) => {
    onSource?.(index, of);
    return splitText(model, source, settings, tokensToRead(settings, sources.length));
  });
  const others = guards.map((guard, index) => {
    onSource?.(sources.length + index, of);
    return guardSequences(settings) > 0
      ? splitText(model, guard, settings, tokensToRead(settings, guards.length))
      : { train: [], heldOut: textToLookAt(model, guard, settings) };
  });
  const streams = own.flatMap(({ train }) => train);
  const guardStreams = others.flatMap(({ train }) => train);
  const heldOut = [...own.map((text) => text.heldOut), ...others.map((text) => ({ ...text.heldOut, guard: true }))];
  const windows = heldOut.flatMap((text) => text.windows);
  return {
    streams,
    guardStreams,
    heldOut,
    trainTokens: [...streams, ...guardStreams].reduce((sum, ids) => sum + ids.length, 0),
    heldOutTokens: windows.length * settings.seq,
    digest: digestOf([...streams, ...guardStreams, ...windows]),
  };
}

/** Sequences of a step that guards have: one at least where they have a share, and never all. */
export function guardSequences({ batch, guardShare = 0 }: Pick<TextSettings, 'batch' | 'guardShare'>): number {
  return guardShare === 0 ? 0 : Math.min(batch - 1, Math.max(1, Math.round(batch * guardShare)));
}

interface SplitText {
  readonly train: readonly Int32Array[];
  readonly heldOut: HeldOutText;
}

function splitText(model: Model, source: TrainSource, settings: TextSettings, limit: number): SplitText {
  const { train, heldOut } = splitStream(model, source.documents, settings.seed, { ...streamOptions(settings), limit });
  requireLength([train], [source.name], settings.seq);
  const kind = 'held-out text (a twentieth of its documents)';
  return { train: [train], heldOut: heldOutText(source, heldOut, settings, spreadWindows, kind) };
}

function textToLookAt(model: Model, guard: TrainSource, settings: TextSettings): HeldOutText {
  const limit = settings.evaluateWindows * settings.seq + 1;
  const stream = tokenStream(model, guard.documents, { ...streamOptions(settings), limit });
  return heldOutText(guard, stream, settings, firstWindows, 'text');
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
