/** The payload of a set: every chunk of its plan, by native coders where a program has them. */
import type { Choice } from './choose-coders.js';
import { encodeDense, type ChunkCoding } from './dense-chunk.js';
import { encodeDenseFast, encodePatchFast, fastCodersFor } from './fast-encode.js';
import type { ChunkPlan } from './layout.js';
import type { Mask } from './mask-set.js';
import { encodePatchChunk } from './patch-chunk.js';
import { encodeScales } from './scales.js';
import { encodeUniform, maxBytes } from './uniform-ac.js';

/** The chunks of `plans`, in order. */
export function encodeChunks(
  plans: readonly ChunkPlan[],
  chunkLog2: number,
  coding: ChunkCoding,
  choice: Choice,
  masks: readonly Mask[],
): Uint8Array[] {
  const fast = fastCodersFor(coding.patterns);
  const dense = plans.filter((plan) => plan.kind === 'dense');
  const encoded = fast === undefined ? [] : encodeDenseFast(fast, dense, chunkLog2, coding, masks);
  const known = new Map<ChunkPlan, Uint8Array | undefined>(dense.map((plan, i) => [plan, encoded[i]]));
  return plans.map((plan) => known.get(plan) ?? encodeChunk(plan, coding, choice, masks));
}

function encodeChunk(plan: ChunkPlan, coding: ChunkCoding, choice: Choice, masks: readonly Mask[]): Uint8Array {
  switch (plan.kind) {
    case 'scales': {
      const table = coding.models.get(choice.tensors[plan.tensors[0]!]!.coder)!.single!;
      return encodeScales(plan.tensors.map(choice.scaleSymbols), table);
    }
    case 'dense':
      return encodeDense(plan.lanes, plan.pieces, coding, ({ tensor, first, count }) =>
        masks[tensor]!.symbols.subarray(first, first + count),
      );
    case 'patch': {
      const fast = fastCodersFor(coding.patterns);
      const chunk = fast && encodePatchFast(fast, plan.tensors, coding, choice.changes);
      return chunk ?? encodePatchChunk(plan.tensors, coding, choice.changes);
    }
    case 'arithmetic': {
      const { tensor, first, count } = plan.piece;
      const out = new Uint8Array(maxBytes(count, coding.patterns.count));
      const symbols = masks[tensor]!.symbols.subarray(first, first + count);
      return out.slice(0, encodeUniform(symbols, coding.patterns.count, out, 0));
    }
  }
}
