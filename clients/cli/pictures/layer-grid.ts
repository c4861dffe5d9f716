/** Where a model's matrices stand in a picture: a row for each layer, a column for each kind of matrix. */

const LAYER = /^(.*?)\b(?:layers|blocks|h)\.(\d+)\.(.+)$/;
const BLOCK_PREFIX = /^(?:self_attn|attn|attention|mlp)\./;
const LLAMA_ORDER = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
const NO_LAYER = 'no layer';

export interface LayerGrid {
  /** `layer 0`, … in ascending order. */
  readonly rowLabels: readonly string[];
  /** `q_proj`, … in LLaMA's order, then others as they came. */
  readonly columnLabels: readonly string[];
  /** Of each name, in the order given; no two are alike. */
  readonly places: readonly { readonly row: number; readonly column: number }[];
}

interface Parts {
  /** What stands before `layers.N`; undefined: the matrix is in no layer. */
  readonly stack?: string;
  readonly layer: number;
  /** What stands behind, without `.weight`. */
  readonly kind: string;
}

/** Places Hugging Face parameter names, e.g. `model.layers.0.mlp.up_proj.weight`. Names must differ. */
export function layerGrid(names: readonly string[]): LayerGrid {
  const parts = names.map(split);
  const stacks = distinct(parts.map(({ stack }) => stack));
  const rowKey = ({ stack, layer }: Parts): string => `${stacks.indexOf(stack)} ${layer}`;
  const rows = [...new Map(parts.map((part) => [rowKey(part), part])).values()].sort(
    (a, b) => orderOf(stacks, a.stack) - orderOf(stacks, b.stack) || a.layer - b.layer,
  );
  const columns = distinct(parts.map(({ kind }) => kind)).sort((a, b) => columnOrder(a) - columnOrder(b));
  const rowKeys = rows.map(rowKey);
  return {
    rowLabels: rows.map(({ stack, layer }) => {
      if (stack === undefined) return NO_LAYER;
      return stacks.filter((other) => other !== undefined).length > 1 ? `${stack}layer ${layer}` : `layer ${layer}`;
    }),
    columnLabels: columnLabels(columns),
    places: parts.map((part) => ({ row: rowKeys.indexOf(rowKey(part)), column: columns.indexOf(part.kind) })),
  };
}

function split(name: string): Parts {
  const bare = name.replace(/\.weight$/, '');
  const [, stack = '', layer, kind] = LAYER.exec(bare) ?? [];
  return layer === undefined || kind === undefined ? { layer: 0, kind: bare } : { stack, layer: Number(layer), kind };
}

/** Matrices of no layer come last. */
function orderOf(stacks: readonly (string | undefined)[], stack: string | undefined): number {
  return stack === undefined ? stacks.length : stacks.indexOf(stack);
}

function columnOrder(kind: string): number {
  const known = LLAMA_ORDER.indexOf(shortKind(kind));
  return known < 0 ? LLAMA_ORDER.length : known;
}

/** Short, unless two kinds would then read alike. */
function columnLabels(kinds: readonly string[]): string[] {
  const short = kinds.map(shortKind);
  return kinds.map((kind, index) => {
    const label = short[index] as string;
    return short.indexOf(label) === short.lastIndexOf(label) ? label : kind;
  });
}

function shortKind(kind: string): string {
  return kind.replace(BLOCK_PREFIX, '');
}

function distinct<T>(values: readonly T[]): T[] {
  return [...new Set(values)];
}
