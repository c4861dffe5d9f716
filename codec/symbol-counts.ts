/** How often a coder would code each symbol in each context of a tensor: what tables are fitted to, and what makes a coder cheap or dear. */
import type { Coder } from './coder.js';
import { changesFast, countFast, fastCodersFor, isMagnitudeFast } from './fast-encode.js';
import { groupContexts, toCoded, type TensorSources } from './group-contexts.js';
import type { Mask } from './mask-set.js';
import { tableList, type ModelHistogram } from './models.js';
import { forEachGap, rawGapBits, type Changes } from './patch-chunk.js';
import type { PatternTable } from './pattern.js';
import { rankGroups, type RankedGroups } from './ranks.js';

/** A tensor as its encoder sees it. */
export interface CountedTensor {
  readonly mask: Mask;
  /** All that any coder may use, scales apart. */
  readonly sources: TensorSources;
  /** Against the parent; none without one. */
  readonly changes: Changes;
}

/** Counts one tensor for several coders: what they share is found once. */
export class SymbolCounter {
  private ranked: RankedGroups | undefined;

  constructor(
    private readonly tensor: CountedTensor,
    private readonly patterns: PatternTable,
  ) {}

  /** The histogram of a coder; undefined if it can't code the tensor: by magnitude what is not. */
  count(coder: Coder): ModelHistogram | undefined {
    switch (coder.form) {
      case 'dense':
        return { ...emptyHistogram(coder, this.patterns), tables: this.countDense(coder, this.tensor.sources) };
      case 'patch':
        return this.countPatch(coder);
      case 'none':
        return this.isMagnitude(coder) ? emptyHistogram(coder, this.patterns) : undefined;
      case 'arithmetic':
        return emptyHistogram(coder, this.patterns);
    }
  }

  /** The same for `scaled-weights` with a symbol and a scale for each column. */
  countScaled(coder: Coder, scaleSymbols: Uint8Array, scales: NonNullable<TensorSources['scales']>): ModelHistogram {
    const histogram = emptyHistogram(coder, this.patterns);
    for (const symbol of scaleSymbols) histogram.single[symbol]!++;
    return { ...histogram, tables: this.countDense(coder, { ...this.tensor.sources, scales }) };
  }

  private countDense(coder: Coder, sources: TensorSources): Float64Array {
    const fast = fastCodersFor(this.patterns);
    const { mask } = this.tensor;
    if (fast !== undefined) return countFast(fast, coder, mask, sources, this.patterns);
    const ranked = coder.codes === 'ranks' ? this.ranks() : undefined;
    const selection = { first: 0, count: mask.symbols.length };
    const contexts = groupContexts(coder, this.patterns, sources, selection, ranked);
    return tally(coder, contexts.contexts, toCoded(mask.symbols, contexts, this.patterns), this.patterns);
  }

  private countPatch(coder: Coder): ModelHistogram {
    const { mask, sources, changes } = this.tensor;
    const { groups, symbols } = changes;
    const { single } = emptyHistogram(coder, this.patterns);
    if (groups.length > 0) {
      const raw = rawGapBits({ groups: mask.symbols.length, changes: groups.length });
      forEachGap(groups, raw, (gap) => {
        for (const symbol of gap) single[symbol]!++;
      });
    }
    const contexts = groupContexts(coder, this.patterns, sources, { first: 0, count: groups.length, groups });
    return {
      single,
      tables: tally(coder, contexts.contexts, toCoded(symbols, contexts, this.patterns), this.patterns),
    };
  }

  private isMagnitude(coder: Coder): boolean {
    const fast = fastCodersFor(this.patterns);
    const { mask, sources } = this.tensor;
    if (fast !== undefined) return isMagnitudeFast(fast, mask, sources, this.patterns);
    const selection = { first: 0, count: mask.symbols.length };
    const contexts = groupContexts(coder, this.patterns, sources, selection, this.ranks());
    return toCoded(mask.symbols, contexts, this.patterns).every((rankPattern) => rankPattern === 0);
  }

  private ranks(): RankedGroups {
    const { mask, sources } = this.tensor;
    const selection = { first: 0, count: mask.symbols.length };
    return (this.ranked ??= rankGroups(sources.weights as Uint16Array, this.patterns, selection));
  }
}

/** The groups of a mask that differ from the parent's. */
export function changesOf(symbols: Uint8Array, parent: Uint8Array, patterns: PatternTable): Changes {
  const fast = fastCodersFor(patterns);
  if (fast !== undefined) return changesFast(fast, symbols, parent);
  let count = 0;
  for (let i = 0; i < symbols.length; i++) if (symbols[i] !== parent[i]) count++;
  const groups = new Uint32Array(count);
  for (let i = 0, at = 0; i < symbols.length; i++) if (symbols[i] !== parent[i]) groups[at++] = i;
  return { groups, symbols: Uint8Array.from(groups, (group) => symbols[group]!) };
}

export function emptyHistogram(coder: Coder, patterns: PatternTable): ModelHistogram {
  const list = tableList(coder, patterns);
  return { tables: new Float64Array(list === undefined ? 0 : list.count * list.symbols), single: new Float64Array(64) };
}

function tally(coder: Coder, contexts: Uint16Array, coded: Uint8Array, patterns: PatternTable): Float64Array {
  const { tables } = emptyHistogram(coder, patterns);
  for (let i = 0; i < coded.length; i++) tables[contexts[i]! * patterns.count + coded[i]!]!++;
  return tables;
}
