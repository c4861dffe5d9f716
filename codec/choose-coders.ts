/**
 * Which coder makes a set smallest, tensor by tensor: FORMAT.md §7. Costs are those of the frequency tables that would be written, which
 * all tensors of a coder share; so the choice is made, the tables are fitted to it, and once more.
 */
import { CODERS, coderNamed, type Coder, type CoderName } from './coder.js';
import type { DecodeContext } from './context.js';
import { CodecError } from './errors.js';
import { costInBits } from './frequency-table.js';
import type { TensorSources } from './group-contexts.js';
import type { TensorEntry } from './layout.js';
import type { Mask } from './mask-set.js';
import { writeModels, type ModelHistogram } from './models.js';
import { rawGapBits, type Changes } from './patch-chunk.js';
import type { PatternTable } from './pattern.js';
import { fitScales, scalesOfSymbols } from './scales.js';
import { changesOf, emptyHistogram, SymbolCounter } from './symbol-counts.js';
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

/** A mask with all the ways to code it. */
interface Subject {
  readonly mask: Mask;
  readonly parent: Uint8Array | undefined;
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
  const weightsOf = weightsByMask(context);
  const subjects = masks.map((mask) => prepare(mask, parents.get(mask.name), patterns, weightsOf(mask), forced));
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
    sources: (tensor) => sourcesFor(chosen[tensor]!.coder, subjects[tensor]!, weightsOf),
    changes: (tensor) => subjects[tensor]!.changes,
    scaleSymbols: (tensor) => subjects[tensor]!.scaleSymbols,
  };
}

/**
 * The weights of a mask, checked; undefined if there are none. Looked up whenever they are needed, for a model's may not fit into memory
 * together; the last are kept, for the next chunk of the same matrix.
 */
function weightsByMask({ weights: lookup }: DecodeContext): (mask: Mask) => Uint16Array | undefined {
  let last: { readonly name: string; readonly weights: Uint16Array | undefined } | undefined;
  return ({ name, rows, cols }) => {
    if (last?.name === name) return last.weights;
    const weights = lookup?.(name);
    if (weights !== undefined && weights.length !== rows * cols) {
      throw new CodecError('weights-mismatch', `expected ${rows} × ${cols} weights of ${name}, got ${weights.length}`);
    }
    last = { name, weights };
    return weights;
  };
}

/** What the coder chosen for a mask reads. */
function sourcesFor(
  { needsParent, needsWeights, codes }: Coder,
  { mask, parent, scaleSymbols }: Subject,
  weightsOf: (mask: Mask) => Uint16Array | undefined,
): TensorSources {
  return {
    ...(needsParent ? { parent: parent as Uint8Array } : {}),
    ...(needsWeights ? { weights: weightsOf(mask) as Uint16Array } : {}),
    ...(codes === 'scaled ranks' ? { scales: scalesOfSymbols(scaleSymbols) } : {}),
  };
}

function prepare(
  mask: Mask,
  parentMask: Mask | undefined,
  patterns: PatternTable,
  weights: Uint16Array | undefined,
  forced: CoderName | undefined,
): Subject {
  const parent = parentMask?.rows === mask.rows && parentMask.cols === mask.cols ? parentMask.symbols : undefined;
  const changes = parent === undefined ? noChanges() : changesOf(mask.symbols, parent, patterns);
  const changed = parent === undefined ? 1 : changes.groups.length / mask.symbols.length;
  const may = (coder: Coder): boolean =>
    (forced === undefined ? isCandidate(coder, changed) : coder.name === forced) &&
    (!coder.needsParent || parent !== undefined) &&
    (!coder.needsWeights || weights !== undefined);
  const sources = { ...(parent === undefined ? {} : { parent }), ...(weights === undefined ? {} : { weights }) };
  const counter = new SymbolCounter({ mask, sources, changes }, patterns);
  const candidates = CODERS.filter((coder) => may(coder) && coder.codes !== 'scaled ranks').flatMap((coder) => {
    const histogram = counter.count(coder);
    return histogram === undefined ? [] : [{ coder, histogram, rawBits: rawBitsOf(coder, mask, changes) }];
  });
  let scaleSymbols: Uint8Array = new Uint8Array(0);
  const scaled = coderNamed('scaled-weights');
  if (may(scaled) && (forced !== undefined || worthScales(candidates, mask.symbols.length, patterns))) {
    scaleSymbols = fitScales(weights as Uint16Array, mask.symbols, mask.cols, patterns);
    const histogram = counter.countScaled(scaled, scaleSymbols, scalesOfSymbols(scaleSymbols));
    candidates.push({ coder: scaled, histogram, rawBits: rawBitsOf(scaled, mask, changes) });
  }
  if (forced !== undefined && candidates.length === 0) throw cannotCode(coderNamed(forced), sources, mask, patterns);
  return { mask, parent, changes, scaleSymbols, candidates };
}

/** Bits that no table changes: those of gaps that are stored as they are, and a share of its chunks' states. */
function rawBitsOf({ form }: Coder, { symbols }: Mask, { groups }: Changes): number {
  if (form === 'dense') return (STATE_BITS * symbols.length) / CHUNK_GROUPS;
  if (form !== 'patch' || groups.length === 0) return 0;
  return groups.length * rawGapBits({ groups: symbols.length, changes: groups.length });
}

/** Whether a coder is worth a try for a tensor of which so many groups changed. */
function isCandidate({ name, form, needsParent }: Coder, changed: number): boolean {
  if (name === 'uniform-ac') return false;
  if (form === 'patch') return changed <= PATCH_CHANGES;
  return changed >= (needsParent ? DENSE_CHANGES : ROOT_CHANGES);
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
  const options = withOnePatchCoder(chosen, subjects);
  for (const coder of CODERS) {
    const same = subjects.map(({ candidates }) => candidates.find((one) => one.coder === coder));
    if (same.every((one) => one !== undefined)) options.push(same);
  }
  return cheapest(options, (option) => setCost(option, patterns));
}

/**
 * A choice in which all patches have one coder: their chunks then have one gap table, as native coders take it. With two, a set is hardly
 * smaller and decodes many times slower.
 */
function withOnePatchCoder(chosen: readonly Candidate[], subjects: readonly Subject[]): Candidate[][] {
  const patched = CODERS.filter((coder) => coder.form === 'patch' && chosen.some((one) => one.coder === coder));
  if (patched.length < 2) return [[...chosen]];
  return patched.flatMap((coder) => {
    const same = chosen.map((one, i) =>
      one.coder.form === 'patch' ? subjects[i]!.candidates.find((other) => other.coder === coder) : one,
    );
    return same.every((one) => one !== undefined) ? [same] : [];
  });
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

function worthScales(candidates: readonly Candidate[], groups: number, patterns: PatternTable): boolean {
  const costs = costsByCoder(candidates, patterns);
  return candidates.every((one) => costs.get(one.coder)!(one) > WORTH_SCALES * groups);
}

function cheapest<T>(choices: readonly T[], cost: (choice: T) => number): T {
  const costs = choices.map(cost);
  return choices[costs.indexOf(Math.min(...costs))] as T;
}

function noChanges(): Changes {
  return { groups: new Uint32Array(0), symbols: new Uint8Array(0) };
}

/** Why a coder that was asked for has no candidate. */
function cannotCode(coder: Coder, sources: TensorSources, { name }: Mask, { n, m }: PatternTable): CodecError {
  if (coder.needsParent && sources.parent === undefined) {
    return new CodecError('parent-missing', `expected a parent with ${name}, which ${coder.name} needs, got none`);
  }
  if (coder.needsWeights && sources.weights === undefined) {
    return new CodecError('weights-missing', `expected the weights of ${name}, which ${coder.name} needs, got none`);
  }
  return new CodecError(
    'bad-symbol',
    `expected ${name} to keep the ${n} largest of every ${m} weights, which ${coder.name} stands for, got others`,
  );
}
