/** The text of a run: token streams to train on, windows held out, and a digest of all of it, so that a resumed run is known to see the same. */
import { createHash } from 'node:crypto';
import { tokenStream } from '../engine/evaluate.js';
import type { Model } from '../engine/model.js';
import { requireLength, splitStream } from './streams.js';
import type { TrainSource } from './types.js';

/** Times the tokens that a run draws from a source: enough for sequences that seldom overlap, so that of a large corpus only a sample is tokenised. */
const TOKENS_TO_DRAW_FROM = 4;
/** Of which about a twentieth is held out. */
const HELD_OUT_PART = 20;

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
  readonly ids: Int32Array;
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
  const own = splits.map(({ heldOut }, i) => ({ source: nameOf(sources, i), guard: false, ids: heldOut }));
  const others = guards.map(({ name, documents }, index) => {
    onSource?.(sources.length + index, of);
    const limit = settings.evaluateWindows * settings.seq + 1;
    return { source: name, guard: true, ids: tokenStream(model, documents, { ...streamOptions(settings), limit }) };
  });
  const heldOut = [...own, ...others].map((text) => cutToWindows(text, settings));
  const tokens = (lists: readonly Int32Array[]): number => lists.reduce((sum, ids) => sum + ids.length, 0);
  return {
    streams,
    heldOut,
    trainTokens: tokens(streams),
    heldOutTokens: tokens(heldOut.map(({ ids }) => ids)),
    digest: digestOf([...streams, ...heldOut.map(({ ids }) => ids)]),
  };
}

function streamOptions({ separator, bos }: TextSettings): { bos: boolean; separator?: number } {
  return { bos, ...(separator === undefined ? {} : { separator }) };
}

function tokensToRead({ steps, batch, seq, evaluateWindows }: TextSettings, sources: number): number {
  const drawn = Math.ceil((steps * batch * seq) / sources);
  return Math.max(TOKENS_TO_DRAW_FROM * drawn, HELD_OUT_PART * (evaluateWindows * seq + 1));
}

/** What is scored, and not a token more: looks at a text are comparable only over the same windows. */
function cutToWindows(text: HeldOutText, { seq, evaluateWindows }: TextSettings): HeldOutText {
  const windows = Math.min(evaluateWindows, Math.floor((text.ids.length - 1) / seq));
  if (windows < 1) {
    const kind = text.guard ? 'text' : 'held-out text (a twentieth of its documents)';
    throw new Error(
      `expected more than ${seq} tokens of ${kind} in ${text.source}, but it has ${text.ids.length}; add text, or lower --seq`,
    );
  }
  return { ...text, ids: text.ids.subarray(0, windows * seq + 1) };
}

function nameOf(sources: readonly TrainSource[], index: number): string {
  return (sources[index] as TrainSource).name;
}

function digestOf(streams: readonly Int32Array[]): string {
  const hash = createHash('sha256');
  for (const ids of streams) {
    hash.update(`${ids.length}\n`);
    hash.update(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength));
  }
  return hash.digest('hex');
}
