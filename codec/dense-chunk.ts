/** Chunks of symbols in interleaved rANS: FORMAT.md §8.2. */
import { groupContexts, toCoded, toSymbols, type TensorSources } from './group-contexts.js';
import { LANES, type Piece, type TensorEntry } from './layout.js';
import type { Model, Models } from './models.js';
import type { PatternTable } from './pattern.js';
import { RansReader, RansWriter } from './rans.js';

/** What the chunks of a set are coded with. */
export interface ChunkCoding {
  readonly patterns: PatternTable;
  readonly tensors: readonly TensorEntry[];
  readonly models: Models;
  /** What a tensor's coder needs; throws CodecError where it is missing. */
  readonly sources: (tensor: number) => TensorSources;
}

/** Decodes a chunk. Returns the symbols of each piece, or undefined if the chunk does not end with its last symbol. */
export function decodeDense(
  chunk: Uint8Array,
  lanes: number,
  pieces: readonly Piece[],
  coding: ChunkCoding,
): Uint8Array[] | undefined {
  const reader = new RansReader(chunk, lanes);
  const symbols = pieces.map((piece) => {
    const { model, contexts } = pieceModel(piece, coding);
    const coded = new Uint8Array(piece.count);
    forEachSymbol(lanes, piece.count, (group, lane) => {
      coded[group] = reader.symbol(lane, model.tables, contexts.contexts[group]!);
    });
    return toSymbols(coded, contexts, coding.patterns);
  });
  return reader.ended ? symbols : undefined;
}

/** Encodes the chunk of `pieces`; `symbolsOf` gives the symbols of a piece. */
export function encodeDense(
  lanes: number,
  pieces: readonly Piece[],
  coding: ChunkCoding,
  symbolsOf: (piece: Piece) => Uint8Array,
): Uint8Array {
  const writer = new RansWriter(lanes);
  for (const piece of pieces) {
    const { model, contexts } = pieceModel(piece, coding);
    const coded = toCoded(symbolsOf(piece), contexts, coding.patterns);
    forEachSymbol(lanes, piece.count, (group, lane) => {
      writer.symbol(lane, model.tables, contexts.contexts[group]!, coded[group]!);
    });
  }
  return writer.finish();
}

function pieceModel(
  { tensor, first, count }: Piece,
  { tensors, models, patterns, sources }: ChunkCoding,
): { model: Model; contexts: ReturnType<typeof groupContexts> } {
  const { coder } = tensors[tensor] as TensorEntry;
  const contexts = groupContexts(coder, patterns, sources(tensor), { first, count });
  return { model: models.get(coder) as Model, contexts };
}

/**
 * Groups of a piece in coding order: 32 a step, lanes 0 to 15 the even groups of the step (low nibbles), 16 to 31 the odd ones; the lanes
 * without a group in the last step are skipped. A single lane has all in order.
 */
function forEachSymbol(lanes: number, count: number, visit: (group: number, lane: number) => void): void {
  if (lanes === 1) {
    for (let group = 0; group < count; group++) visit(group, 0);
    return;
  }
  for (let start = 0; start < count; start += LANES) {
    for (let lane = 0; lane < LANES; lane++) {
      const group = start + 2 * (lane & 15) + (lane >> 4);
      if (group < count) visit(group, lane);
    }
  }
}
