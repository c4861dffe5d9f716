/** The chunks of the second decoder: scales, symbols, patches. FORMAT.md §8 and §9. */
import { groupModel, SimpleRans, type SimpleSources } from './simple-coders.js';
import type { SimpleTensor } from './simple-container.js';
import type { ChunkReader, SimpleEntry, SimpleModel } from './simple-tables.js';

/** FORMAT.md §8.3. */
export function readScales(
  entries: readonly SimpleEntry[],
  models: ReadonlyMap<number, SimpleModel>,
  sources: SimpleSources[],
  nextChunk: ChunkReader,
): void {
  if (!entries.some(({ coder }) => coder === 6)) return;
  const rans = new SimpleRans(nextChunk(), 1);
  entries.forEach(({ coder, cols }, t) => {
    if (coder !== 6) return;
    const scales = Array.from({ length: cols }, () => 16 * (rans.symbol(0, models.get(6)!.single) - 32));
    sources[t] = { ...sources[t]!, scales };
  });
  mustEnd(rans);
}

/** FORMAT.md §8.2. */
export function decodeDense(
  entries: readonly SimpleEntry[],
  models: ReadonlyMap<number, SimpleModel>,
  sources: readonly SimpleSources[],
  tensors: readonly SimpleTensor[],
  chunkLog2: number,
  nextChunk: ChunkReader,
): void {
  const steps: { t: number; groups: number[] }[] = [];
  entries.forEach(({ coder, groups }, t) => {
    if (coder < 2 || coder > 7) return;
    for (let first = 0; first < groups; first += 32) {
      steps.push({ t, groups: Array.from({ length: Math.min(32, groups - first) }, (_, i) => first + i) });
    }
  });
  for (let step = 0; step < steps.length; step += 2 ** chunkLog2 / 32) {
    const chunk = steps.slice(step, step + 2 ** chunkLog2 / 32);
    const lanes = chunk.length >= 128 ? 32 : 1;
    const rans = new SimpleRans(nextChunk(), lanes);
    for (const { t, groups } of chunk) {
      const { coder } = entries[t]!;
      const order =
        lanes === 1 ? groups.map((_, i) => i) : Array.from({ length: 32 }, (_, j) => 2 * (j % 16) + Math.floor(j / 16));
      order.forEach((place, lane) => {
        const group = groups[place];
        if (group === undefined) return;
        const { context, symbolOf } = groupModel(coder, group, sources[t]!);
        tensors[t]!.symbols[group] = symbolOf(rans.symbol(lanes === 1 ? 0 : lane, models.get(coder)!.tables[context]!));
      });
    }
    mustEnd(rans);
  }
}

/** FORMAT.md §9. */
export function decodePatches(
  entries: readonly SimpleEntry[],
  models: ReadonlyMap<number, SimpleModel>,
  sources: readonly SimpleSources[],
  tensors: readonly SimpleTensor[],
  patchLog2: number,
  nextChunk: ChunkReader,
): void {
  const changed = [...entries.keys()].filter((t) => entries[t]!.count > 0);
  while (changed.length > 0) {
    const chunk: number[] = [];
    for (let changes = 0; changes < 2 ** patchLog2 && changed.length > 0;) {
      changes += entries[changed[0]!]!.count;
      chunk.push(changed.shift()!);
    }
    const rans = new SimpleRans(nextChunk(), 1);
    const positions = chunk.map((t) => {
      const { groups, count, coder } = entries[t]!;
      const h = Math.max(0, Math.floor(Math.log2(Math.floor(groups / count))) - 3);
      let last = -1;
      return Array.from({ length: count }, () => {
        let hi = 0;
        for (let s = 63; s === 63; hi += s) s = rans.symbol(0, models.get(coder)!.single);
        return (last += 1 + hi * 2 ** h + rans.raw(h));
      });
    });
    chunk.forEach((t, i) => {
      const { coder } = entries[t]!;
      for (const group of positions[i]!) {
        const { context, symbolOf } = groupModel(coder, group, sources[t]!);
        tensors[t]!.symbols[group] = symbolOf(rans.symbol(0, models.get(coder)!.tables[context]!));
      }
    });
    mustEnd(rans);
  }
}

function mustEnd(rans: SimpleRans): void {
  if (!rans.ended) throw new Error('the chunk does not end with its last symbol');
}
