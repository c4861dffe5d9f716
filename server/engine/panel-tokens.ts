/** From how many tokens of a prompt on a compacted matrix is multiplied by panels of its weights, which are packed for that, rather than by dot products of its rows. */
import { native } from '../../kernels/index.js';

/** MS_PANEL_TOKENS of the op table: more than a step of decoding has, and by panels whatever the shape. */
export const LONG_PROMPT = 65;

/** That number of tokens, 1 … LONG_PROMPT, for products of one input (T, cols) and `rows` outputs in all. */
export type PanelTokens = (rows: number, cols: number) => number;

const LEAST = 8;
const MOST = 32;
const COLUMNS_PER_TOKEN = native.info().isa === 'avx512' ? 24 : Infinity;

/**
 * As measured on one machine, with weights that are in no cache. With AVX-512 BF16 they pay from 8 tokens on with 256 columns, 24 with 576, 32 with 768 to 3072, 16 with 4096 and more: about K / 24, and no more than 32, for
 * sums across lanes are what the dot products of short rows spend their time on. With AVX2 from 8.
 */
export const panelTokensByRule: PanelTokens = (_, cols) =>
  Math.min(MOST, Math.max(LEAST, Math.ceil(cols / COLUMNS_PER_TOKEN)));
