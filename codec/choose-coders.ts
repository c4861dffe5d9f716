/**
 * Which coder makes a set smallest, tensor by tensor: FORMAT.md §7. Costs are those of the frequency tables that would be written, which
 * all tensors of a coder share; so the choice is made, the tables are fitted to it, and once more.
 */
import { CODERS, coderNamed, type Coder, type CoderName } from './coder.js';
import type { DecodeContext } from './context.js';
import { CodecError } from './errors.js';
import { costInBits } from './frequency-table.js';
import { groupContexts, toCoded, type TensorSources } from './group-contexts.js';
import type { TensorEntry } from './layout.js';
import type { Mask } from './mask-set.js';
import { tableList, writeModels, type ModelHistogram } from './models.js';
import { forEachGap, rawGapBits, type Changes } from './patch-chunk.js';
import type { PatternTable } from './pattern.js';
import { rankGroups, type RankedGroups } from './ranks.js';
import { fitScales, scalesOfSymbols } from './scales.js';
import { SectionWriter } from './varint.js';

/** A patch is preferred to dense symbols that would be so much smaller: it decodes in the time of its changes. */
const PATCH_PREFERENCE = 0.97;
/** Scales are looked for where the best of the other coders takes more bits a group. */
const WORTH_SCALES = 0.3;
const ROUNDS = 2;
/** Shares of changed groups below which coders that don't know the parent, or that spend something on every group, can't win. */
const ROOT_CHANGES = 0.1;
const DENSE_CHANGES = 0.002;
/** Above it a patch is no patch. */
const PATCH_CHANGES = 0.25;
/** Bits that the states of a chunk's lanes cost: 32 · 32, of which the decoder gets back what they tell of the first symbols. */
const STATE_BITS = 640;
const CHUNK_GROUPS = 2 ** 16;

/** Coders, and what goes with them, in the order of the masks. */
export interface Choice {
  readonly tensors: readonly TensorEntry[];
  readonly histograms: ReadonlyMap<Coder, ModelHistogram>;
  readonly sources: (tensor: number) => TensorSources;
  readonly changes: (tensor: number) => Changes;
  readonly scaleSymbols: (tensor: number) => Uint8Array;
}

/** One way to code one tensor. */
interface Candidate {
  readonly coder: Coder;
  readonly histogram: ModelHistogram;
  /** What no table changes: raw bits, states. */
  readonly rawBits: number;
}

/** A mask with all that its candidates need. */
interface Subject {
  readonly mask: Mask;
  readonly sources: TensorSources;
  readonly changes: Changes;
  readonly scaleSymbols: Uint8Array;
  readonly candidates: readonly Candidate[];
}

/** Chooses for masks in the order in which they are coded; `forced` is taken for all. Throws CodecError as `encodeMaskSet` says. */
export function chooseCoders(
  masks: readonly Mask[],
  patterns: PatternTable,
  context: DecodeContext,
  forced?: CoderName,
): Choice {
  const parents = new Map(context.parent?.masks.map((mask) => [mask.name, mask]));
  const subjects = masks.map((mask) => {
    const subject = prepare(mask, parents.get(mask.name), patterns, context, forced);
    if (forced !== undefined) checkForced(coderNamed(forced), subject, mask, patterns);
    return subject;
  });
  const chosen = forced === undefined ? choose(subjects, patterns) : subjects.map(({ candidates }) => candidates[0]!);
  const tensors = subjects.map(({ mask, changes }, i): TensorEntry => {
    const { coder } = chosen[i]!;
    const { name, rows, cols, symbols } = mask;
    const count = coder.form === 'patch' ? changes.groups.length : 0;
    return { name, rows, cols, groups: symbols.length, coder, changes: count };
  });
  return {
    tensors,
    histograms: pool(chosen, patterns),
    sources: (tensor) => subjects[tensor]!.sources,
    changes: (tensor) => subjects[tensor]!.changes,
    scaleSymbols: (tensor) => subjects[tensor]!.scaleSymbols,
  };
}

function prepare(
  mask: Mask,
  parentMask: Mask | undefined,
  patterns: PatternTable,
  { weights: weightsOf }: DecodeContext,
  forced: CoderName | undefined,
): Subject {
  const parent = parentMask?.rows === mask.rows && parentMask.cols === mask.cols ? parentMask.symbols : undefined;
  const weights = weightsOf?.(mask.name);
  if (weights !== undefined && weights.length !== mask.rows * mask.cols) {
    throw new CodecError(
      'weights-mismatch',
      `expected ${mask.rows} × ${mask.cols} weights of ${mask.name}, got ${weights.length}`,
    );
  }
  const sources = { ...(parent === undefined ? {} : { parent }), ...(weights === undefined ? {} : { weights }) };
  const changes = parent === undefined ? noChanges() : changesOf(mask.symbols, parent);
  const changed = parent === undefined ? 1 : changes.groups.length / mask.symbols.length;
  const may = (coder: Coder): boolean =>
    (forced === undefined ? isCandidate(coder, changed) : coder.name === forced) &&
    (!coder.needsParent || parent !== undefined) &&
    (!coder.needsWeights || weights !== undefined);
  const subject = { mask, sources, changes };
  const selection = { first: 0, count: mask.symbols.length };
  const ranksAll = CODERS.some((coder) => may(coder) && coder.codes === 'ranks' && coder.form !== 'patch');
  const ranked = weights !== undefined && ranksAll ? rankGroups(weights, patterns, selection) : undefined;
  const candidates = CODERS.filter((coder) => may(coder) && coder.codes !== 'scaled ranks').flatMap(
    (coder) => candidate(coder, subject, patterns, ranked) ?? [],
  );
  const scaled = coderNamed('scaled-weights');
  if (!may(scaled) || (forced === undefined && !worthScales(candidates, mask.symbols.length, patterns))) {
    return { ...subject, scaleSymbols: new Uint8Array(0), candidates };
  }
  const scaleSymbols = fitScales(weights as Uint16Array, mask.symbols, mask.cols, patterns);
  const scaledSources = { ...sources, scales: scalesOfSymbols(scaleSymbols) };
  const withScales = candidate(scaled, { mask, sources: scaledSources, changes }, patterns, undefined, scaleSymbols);
  return { mask, changes, sources: scaledSources, scaleSymbols, candidates: [...candidates, withScales as Candidate] };
}

/** Whether a coder is worth a try for a tensor of which so many groups changed. */
function isCandidate({ name, form, needsParent }: Coder, changed: number): boolean {
  if (name === 'uniform-ac') return false;
  if (form === 'patch') return changed <= PATCH_CHANGES;
  return changed >= (needsParent ? DENSE_CHANGES : ROOT_CHANGES);
}

/** How a coder would code a tensor; undefined if it can't: a mask that is not by magnitude. */
function candidate(
  coder: Coder,
  { mask, sources, changes }: Pick<Subject, 'mask' | 'sources' | 'changes'>,
  patterns: PatternTable,
  ranked?: RankedGroups,
  scaleSymbols: Uint8Array = new Uint8Array(0),
): Candidate | undefined {
  const patch = coder.form === 'patch';
  const groups = patch ? changes.groups : undefined;
  const symbols = patch ? changes.symbols : mask.symbols;
  const selection = { first: 0, count: symbols.length, ...(groups === undefined ? {} : { groups }) };
  const contexts = groupContexts(coder, patterns, sources, selection, patch ? undefined : ranked);
  const coded = toCoded(symbols, contexts, patterns);
  if (coder.form === 'none' && coded.some((rankPattern) => rankPattern !== 0)) return undefined;
  const histogram = emptyHistogram(coder, patterns);
  if (coder.form === 'dense' || patch) {
    for (let i = 0; i < coded.length; i++) histogram.tables[contexts.contexts[i]! * patterns.count + coded[i]!]!++;
  }
  for (const symbol of scaleSymbols) histogram.single[symbol]!++;
  const rawBits = patch
    ? countGaps(changes.groups, mask.symbols.length, histogram.single)
    : coder.form === 'dense'
      ? (STATE_BITS * symbols.length) / CHUNK_GROUPS
      : 0;
  return { coder, histogram, rawBits };
}

/** Adds the gap symbols of a patch; returns its raw bits. */
function countGaps(groups: Uint32Array, all: number, into: Float64Array): number {
  if (groups.length === 0) return 0;
  const raw = rawGapBits({ groups: all, changes: groups.length });
  forEachGap(groups, raw, (symbols) => {
    for (const symbol of symbols) into[symbol]!++;
  });
  return raw * groups.length;
}

/** The coders of the smallest set: mixed, or one for all that can have it. */
function choose(subjects: readonly Subject[], patterns: PatternTable): Candidate[] {
  let mixed = subjects.map(({ candidates }) => candidates);
  let chosen: Candidate[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const costs = costsByCoder(round === 0 ? mixed.flat() : chosen, patterns);
    mixed = mixed.map((candidates) => candidates.filter(({ coder }) => costs.has(coder)));
    chosen = mixed.map((candidates) => cheapest(candidates, (one) => costs.get(one.coder)!(one)));
  }
  const options = [chosen];
  for (const coder of CODERS) {
    const same = subjects.map(({ candidates }) => candidates.find((one) => one.coder === coder));
    if (same.every((one) => one !== undefined)) options.push(same);
  }
  return cheapest(options, (option) => setCost(option, patterns));
}

/** Bits of all tensors coded so, their tables and shares of chunks included. */
function setCost(chosen: readonly Candidate[], patterns: PatternTable): number {
  const writer = new SectionWriter();
  writeModels(writer, pool(chosen, patterns), patterns);
  const costs = costsByCoder(chosen, patterns);
  return 8 * writer.toBytes().length + chosen.reduce((sum, one) => sum + costs.get(one.coder)!(one), 0);
}

/** Bits of a candidate by tables that fit all the candidates given, with the preference for patches. */
function costsByCoder(
  candidates: readonly Candidate[],
  patterns: PatternTable,
): ReadonlyMap<Coder, (candidate: Candidate) => number> {
  const models = writeModels(new SectionWriter(), pool(candidates, patterns), patterns);
  const costs = new Map<Coder, (candidate: Candidate) => number>();
  for (const { coder } of candidates) {
    const model = models.get(coder);
    costs.set(coder, ({ histogram, rawBits }) => {
      if (model === undefined) return 0;
      const single = model.single === undefined ? 0 : costInBits(model.single, histogram.single);
      return preferred({ coder }, rawBits + single + costInBits(model.tables, histogram.tables));
    });
  }
  return costs;
}

function preferred({ coder }: Pick<Candidate, 'coder'>, bits: number): number {
  return coder.form === 'patch' ? PATCH_PREFERENCE * bits : bits;
}

/** Histograms of all candidates of each coder together. */
function pool(candidates: readonly Candidate[], patterns: PatternTable): Map<Coder, ModelHistogram> {
  const sums = new Map<Coder, ModelHistogram>();
  for (const { coder, histogram } of candidates) {
    const sum = sums.get(coder) ?? emptyHistogram(coder, patterns);
    histogram.tables.forEach((count, i) => (sum.tables[i]! += count));
    histogram.single.forEach((count, i) => (sum.single[i]! += count));
    sums.set(coder, sum);
  }
  return sums;
}

function emptyHistogram(coder: Coder, patterns: PatternTable): ModelHistogram {
  const list = tableList(coder, patterns);
  return { tables: new Float64Array(list === undefined ? 0 : list.count * list.symbols), single: new Float64Array(64) };
}

function worthScales(candidates: readonly Candidate[], groups: number, patterns: PatternTable): boolean {
  const costs = costsByCoder(candidates, patterns);
  return candidates.every((one) => costs.get(one.coder)!(one) > WORTH_SCALES * groups);
}

function cheapest<T>(choices: readonly T[], cost: (choice: T) => number): T {
  const costs = choices.map(cost);
  return choices[costs.indexOf(Math.min(...costs))] as T;
}

function changesOf(symbols: Uint8Array, parent: Uint8Array): Changes {
  let count = 0;
  for (let i = 0; i < symbols.length; i++) if (symbols[i] !== parent[i]) count++;
  const groups = new Uint32Array(count);
  for (let i = 0, at = 0; i < symbols.length; i++) if (symbols[i] !== parent[i]) groups[at++] = i;
  return { groups, symbols: Uint8Array.from(groups, (group) => symbols[group]!) };
}

function noChanges(): Changes {
  return { groups: new Uint32Array(0), symbols: new Uint8Array(0) };
}

function checkForced(coder: Coder, { candidates, sources }: Subject, { name }: Mask, { n, m }: PatternTable): void {
  if (candidates.length > 0) return;
  if (coder.needsParent && sources.parent === undefined) {
    throw new CodecError('parent-missing', `expected a parent with ${name}, which ${coder.name} needs, got none`);
  }
  if (coder.needsWeights && sources.weights === undefined) {
    throw new CodecError('weights-missing', `expected the weights of ${name}, which ${coder.name} needs, got none`);
  }
  throw new CodecError(
    'bad-symbol',
    `expected ${name} to keep the ${n} largest of every ${m} weights, which ${coder.name} stands for, got others`,
  );
}
