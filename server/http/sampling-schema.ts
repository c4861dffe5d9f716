/** Fields that completions and chat completions share: their schema, and what they become for the engine. */
import type { SchemaObject } from 'ajv';
import type { GenerateRequest, ModelInfo } from '../engine/types.js';
import { ServerError } from '../errors.js';
import { optional, show } from './schema.js';

/** Most alternatives a token; OpenAI's chat limit. */
export const MAX_TOP_LOGPROBS = 20;
const MAX_STOPS = 64;
const MAX_N = 128;

export interface SamplingBody {
  readonly model?: string | null;
  readonly temperature?: number | null;
  readonly top_p?: number | null;
  readonly top_k?: number | null;
  readonly n?: number | null;
  readonly stop?: string | readonly string[] | null;
  readonly seed?: number | null;
  readonly stream?: boolean | null;
  readonly stream_options?: { readonly include_usage?: boolean | null } | null;
  readonly logit_bias?: Readonly<Record<string, number>> | null;
  readonly presence_penalty?: number | null;
  readonly frequency_penalty?: number | null;
  readonly ignore_eos?: boolean | null;
}

/** What the engine is told of sampling: everything that does not depend on prompt, length or logprobs. */
export type SamplingSettings = Pick<
  GenerateRequest,
  'temperature' | 'topK' | 'topP' | 'stop' | 'ignoreEos' | 'logitBias' | 'presencePenalty' | 'frequencyPenalty'
>;

export const SAMPLING_PROPERTIES: Readonly<Record<string, SchemaObject>> = {
  model: optional({ type: 'string', description: 'a model such as "tiny" or "tiny:french"' }),
  temperature: optional({ type: 'number', minimum: 0, description: 'a number from 0 (greedy) on' }),
  top_p: optional({ type: 'number', minimum: 0, maximum: 1, description: 'a number from 0 to 1' }),
  top_k: optional({ type: 'integer', minimum: -1, description: 'an integer from 1 on, or 0 or -1 for all tokens' }),
  n: optional({ type: 'integer', minimum: 1, maximum: MAX_N, description: `an integer from 1 to ${MAX_N}` }),
  stop: optional({
    anyOf: [{ type: 'string' }, { type: 'array', items: { type: 'string' }, maxItems: MAX_STOPS }],
    description: `a string or an array of up to ${MAX_STOPS} strings`,
  }),
  seed: optional({ type: 'integer', description: 'an integer' }),
  stream: optional({ type: 'boolean', description: 'true or false' }),
  stream_options: optional({
    type: 'object',
    properties: { include_usage: optional({ type: 'boolean', description: 'true or false' }) },
    description: 'an object such as {"include_usage": true}',
  }),
  logit_bias: optional({
    type: 'object',
    additionalProperties: { type: 'number', minimum: -100, maximum: 100, description: 'a number from -100 to 100' },
    description: 'an object of token ids to numbers from -100 to 100',
  }),
  presence_penalty: optional({ type: 'number', minimum: -2, maximum: 2, description: 'a number from -2 to 2' }),
  frequency_penalty: optional({ type: 'number', minimum: -2, maximum: 2, description: 'a number from -2 to 2' }),
  ignore_eos: optional({ type: 'boolean', description: 'true or false' }),
  user: optional({ type: 'string', description: 'a string; not used' }),
};

/** OpenAI's defaults: temperature 1, top_p 1. Throws ServerError for a logit_bias outside the vocabulary. */
export function samplingSettings(body: SamplingBody, model: ModelInfo): SamplingSettings {
  return {
    temperature: body.temperature ?? 1,
    topK: Math.max(0, body.top_k ?? 0),
    topP: body.top_p ?? 1,
    stop: stops(body.stop),
    ignoreEos: body.ignore_eos ?? false,
    logitBias: logitBias(body.logit_bias ?? {}, model.vocabularySize),
    presencePenalty: body.presence_penalty ?? 0,
    frequencyPenalty: body.frequency_penalty ?? 0,
  };
}

/** Seed of the j-th of n: choices differ, each reproducible by itself. */
export function seedOf(seed: number | null | undefined, j: number): { readonly seed?: number } {
  return seed === null || seed === undefined ? {} : { seed: (seed % 2 ** 52) + j };
}

export function wantsUsage(body: SamplingBody): boolean {
  return body.stream_options?.include_usage === true;
}

/** An empty stop string would end every text before its first character; clients that send one mean none. */
function stops(stop: SamplingBody['stop']): string[] {
  const list = typeof stop === 'string' ? [stop] : (stop ?? []);
  return list.filter((text) => text !== '');
}

function logitBias(biases: Readonly<Record<string, number>>, vocabulary: number): [number, number][] {
  return Object.entries(biases).map(([key, bias]) => {
    const id = /^\d+$/.test(key) ? Number(key) : NaN;
    if (id < vocabulary) return [id, bias];
    const message = `expected token ids from 0 to ${vocabulary - 1} as keys of logit_bias but received ${show(key)}`;
    throw new ServerError('invalid_request', message, { param: 'logit_bias' });
  });
}
