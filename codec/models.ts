/** The models section: frequency tables that all tensors of a coder share. FORMAT.md §5. */
import { CODERS, type Coder } from './coder.js';
import { readTables, uniformTables, writeTables, type FrequencyTables, type TableList } from './frequency-table.js';
import type { PatternTable } from './pattern.js';
import { SectionReader, type SectionWriter } from './varint.js';

/** Symbols of the tables of scales and gaps. */
const SINGLE_SYMBOLS = 64;
const CLARITIES = 64;
/** Contexts of `parent+weights` for each rank pattern of the parent. */
export const BUCKETS = 10;

/** The tables of one coder. */
export interface Model {
  /** Of the coded symbols, by context. */
  readonly tables: FrequencyTables;
  /** `scaled-weights`: of the scales. Patches: of the gaps. */
  readonly single: FrequencyTables | undefined;
}

/** How often each context had each symbol, and, for `single`, each scale or gap. */
export interface ModelHistogram {
  /** (count · symbols of the list) */
  readonly tables: Float64Array;
  /** (64) */
  readonly single: Float64Array;
}

export type Models = ReadonlyMap<Coder, Model>;

/** The list of tables of a coder; undefined for coders without symbols in rANS chunks. */
export function tableList({ name }: Coder, { count: symbols }: PatternTable): TableList | undefined {
  switch (name) {
    case 'uniform':
    case 'static':
      return { name, count: 1, symbols };
    case 'parent':
      return { name, count: symbols, symbols };
    case 'weights':
    case 'scaled-weights':
      return { name, count: CLARITIES, symbols };
    case 'parent+weights':
      return { name, count: BUCKETS * symbols, symbols };
    case 'patch':
      return { name, count: symbols, symbols, excluded: (table) => table };
    case 'patch+weights':
      return { name, count: BUCKETS * symbols, symbols, excluded: (table) => Math.floor(table / BUCKETS) };
    case 'uniform-ac':
    case 'magnitude':
      return undefined;
  }
}

/** Reads the models of the coders that are used. Throws CodecError `model-table`. */
export function readModels(section: Uint8Array, used: ReadonlySet<Coder>, patterns: PatternTable): Models {
  const reader = new SectionReader(section, 'models section', 'model-table');
  const models = modelsOf(used, patterns, (list) => readTables(reader, list));
  reader.end();
  return models;
}

/** Writes the models that fit the histograms, and returns them. */
export function writeModels(
  writer: SectionWriter,
  histograms: ReadonlyMap<Coder, ModelHistogram>,
  patterns: PatternTable,
): Models {
  return modelsOf(new Set(histograms.keys()), patterns, (list, coder, part) =>
    writeTables(writer, list, (histograms.get(coder) as ModelHistogram)[part]),
  );
}

/** Builds the models in the order of the format: of each coder first the single table, then those of its contexts. */
function modelsOf(
  used: ReadonlySet<Coder>,
  patterns: PatternTable,
  take: (list: TableList, coder: Coder, part: 'tables' | 'single') => FrequencyTables,
): Models {
  const models = new Map<Coder, Model>();
  for (const coder of CODERS) {
    const list = tableList(coder, patterns);
    if (!used.has(coder) || list === undefined) continue;
    const single = singleName(coder);
    models.set(coder, {
      single:
        single === undefined ? undefined : take({ name: single, count: 1, symbols: SINGLE_SYMBOLS }, coder, 'single'),
      tables: coder.name === 'uniform' ? uniformTables(list) : take(list, coder, 'tables'),
    });
  }
  return models;
}

function singleName(coder: Coder): string | undefined {
  if (coder.form === 'patch') return `the gaps of ${coder.name}`;
  return coder.codes === 'scaled ranks' ? `the scales of ${coder.name}` : undefined;
}
