/** What Hugging Face transformers computed (test/fixtures/reference/make.py says how), typed. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export interface Perplexity {
  readonly tokens: number;
  /** Mean over the tokens, nats. */
  readonly nll: number;
  readonly ppl: number;
}

export interface GreedyCase {
  readonly prompt: string;
  readonly ids: readonly number[];
  /** The likeliest token, each given all before it. */
  readonly continuation: readonly number[];
  /** Of each step: best logit minus second best, nats. */
  readonly margins: readonly number[];
  /** Of the prompt's tokens; only on some cases. */
  readonly logprobs?: readonly (number | null)[];
}

export interface EvaluationSettings {
  readonly window: number;
  readonly windows: number;
  readonly bos: boolean;
  /** Token id after each document. */
  readonly separator: number;
}

export interface Reference {
  readonly versions: Readonly<Record<string, string>>;
  readonly settings: EvaluationSettings;
  /** By domain: of `data/DOMAIN.valid.jsonl`. */
  readonly perplexity: Readonly<Record<string, Perplexity>>;
  readonly greedy: readonly GreedyCase[];
}

export interface TinyReference extends Reference {
  /** Of a file that is committed beside the reference, all its windows. */
  readonly excerpt: Perplexity & { readonly file: string };
}

export interface SmolLM2Reference extends Reference {
  readonly chat: GreedyCase & { readonly text: string };
}

/** Perplexities by domain, and their `average`. */
export type OneShotRow = Readonly<Record<string, number>>;

/** Perplexities of one-shot masks on models/tiny; where data is needed, by seed of its draw. */
export interface OneShotReference {
  readonly settings: Readonly<Record<string, unknown>>;
  readonly rows: {
    readonly dense: OneShotRow;
    /** As torch.topk broke its ties; bf16 weights have many. */
    readonly magnitude: OneShotRow;
    /** Ties to the lower position, as scoreMask24 does. */
    readonly magnitudeLowerFirst: OneShotRow;
    readonly wanda: Readonly<Record<string, OneShotRow>>;
    readonly sparsegpt: Readonly<Record<string, OneShotRow>>;
  };
}

const FOLDER = new URL('../../../test/fixtures/reference/', import.meta.url);

export const tinyReference = (): TinyReference => read('tiny.json') as TinyReference;
export const smollm2Reference = (): SmolLM2Reference => read('smollm2.json') as SmolLM2Reference;
export const oneShotReference = (): OneShotReference => read('oneshot.json') as OneShotReference;

/** Path of a file beside the reference. */
export function referenceFile(name: string): string {
  return fileURLToPath(new URL(name, FOLDER));
}

/** The documents of a file with one {"text": …} a line. */
export function documentsOf(file: string): string[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => (JSON.parse(line) as { text: string }).text);
}

function read(name: string): unknown {
  return JSON.parse(readFileSync(referenceFile(name), 'utf8'));
}
