/** The body of POST /v1/completions: its schema, and the sequences it asks for. */
import type { SchemaObject } from 'ajv';
import type { GenerateRequest, ModelInfo } from '../engine/types.js';
import { ServerError } from '../errors.js';
import {
  MAX_TOP_LOGPROBS,
  SAMPLING_PROPERTIES,
  samplingSettings,
  seedOf,
  type SamplingBody,
} from './sampling-schema.js';
import { bodyParser, optional } from './schema.js';

const DEFAULT_MAX_TOKENS = 16;
/** Prompts × n: beyond it a request is a job, to be sent in parts. */
const MAX_CHOICES = 4096;

type TokenIds = readonly number[];

export interface CompletionBody extends SamplingBody {
  readonly prompt: string | readonly string[] | TokenIds | readonly TokenIds[];
  readonly max_tokens?: number | null;
  readonly best_of?: number | null;
  readonly echo?: boolean | null;
  readonly logprobs?: number | null;
  readonly suffix?: string | null;
  readonly add_special_tokens?: boolean | null;
}

const TOKEN_IDS: SchemaObject = { type: 'array', items: { type: 'integer', minimum: 0 }, minItems: 1 };

export const COMPLETION_SCHEMA: SchemaObject = {
  type: 'object',
  required: ['prompt'],
  properties: {
    ...SAMPLING_PROPERTIES,
    prompt: {
      anyOf: [
        { type: 'string' },
        TOKEN_IDS,
        { type: 'array', items: { type: 'string' }, minItems: 1 },
        { type: 'array', items: TOKEN_IDS, minItems: 1 },
      ],
      description:
        'a string, an array of strings, an array of token ids or an array of such arrays, none of them empty',
    },
    max_tokens: optional({ type: 'integer', minimum: 0, description: 'an integer from 0 on' }),
    best_of: optional({ type: 'integer', minimum: 1, description: 'an integer equal to n' }),
    echo: optional({ type: 'boolean', description: 'true or false' }),
    logprobs: optional({
      type: 'integer',
      minimum: 0,
      maximum: MAX_TOP_LOGPROBS,
      description: `an integer from 0 to ${MAX_TOP_LOGPROBS}`,
    }),
    suffix: optional({ type: 'string', description: 'an empty string' }),
    add_special_tokens: optional({ type: 'boolean', description: 'true or false' }),
  },
};

/** Throws ServerError invalid_request. */
export const parseCompletion = bodyParser<CompletionBody>(COMPLETION_SCHEMA);

/** Prompts in order, each n times: choice index = prompt · n + j (LangChain slices by position). Weights are added when the task is there. */
export function completionRequests(body: CompletionBody, model: ModelInfo): Omit<GenerateRequest, 'weights'>[] {
  refuseUnsupported(body);
  const settings = samplingSettings(body, model);
  const n = body.n ?? 1;
  const prompts = promptsOf(body);
  if (prompts.length * n > MAX_CHOICES) {
    const message = `expected at most ${MAX_CHOICES} choices but ${prompts.length} prompts with n = ${n} make ${prompts.length * n}`;
    throw new ServerError('invalid_request', message, { param: 'prompt' });
  }
  return prompts.flatMap((prompt) =>
    Array.from({ length: n }, (_, j) => ({
      ...settings,
      ...seedOf(body.seed, j),
      ...(typeof body.logprobs === 'number' ? { logprobs: body.logprobs } : {}),
      prompt,
      addSpecialTokens: body.add_special_tokens ?? true,
      maxTokens: body.max_tokens ?? DEFAULT_MAX_TOKENS,
      echo: body.echo ?? false,
    })),
  );
}

function promptsOf({ prompt }: CompletionBody): (string | TokenIds)[] {
  if (typeof prompt === 'string') return [prompt];
  return typeof prompt[0] === 'number' ? [prompt as TokenIds] : [...(prompt as (string | TokenIds)[])];
}

function refuseUnsupported({ suffix, best_of, n }: CompletionBody): void {
  if (suffix) {
    throw new ServerError('unsupported', 'expected no suffix: this server completes text, it does not insert', {
      param: 'suffix',
    });
  }
  if (typeof best_of === 'number' && best_of !== (n ?? 1)) {
    throw new ServerError('unsupported', `expected best_of to equal n (${n ?? 1}) but received ${best_of}`, {
      param: 'best_of',
    });
  }
}
