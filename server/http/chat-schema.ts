/** The body of POST /v1/chat/completions. Fields that would change the answer's meaning and aren't implemented are refused by name; others are let pass. */
import type { SchemaObject } from 'ajv';
import { ServerError } from '../errors.js';
import { MAX_TOP_LOGPROBS, SAMPLING_PROPERTIES, type SamplingBody } from './sampling-schema.js';
import { bodyParser, optional, show } from './schema.js';

interface TextPart {
  readonly type: string;
  readonly text?: string;
}

interface ChatMessageBody {
  readonly role: string;
  readonly content?: string | readonly TextPart[] | null;
}

export interface ChatBody extends SamplingBody {
  readonly messages: readonly ChatMessageBody[];
  readonly max_tokens?: number | null;
  readonly max_completion_tokens?: number | null;
  readonly logprobs?: boolean | null;
  readonly top_logprobs?: number | null;
  readonly [other: string]: unknown;
}

const TOKEN_COUNT = optional({ type: 'integer', minimum: 1, description: 'an integer from 1 on' });

export const CHAT_SCHEMA: SchemaObject = {
  type: 'object',
  required: ['messages'],
  properties: {
    ...SAMPLING_PROPERTIES,
    messages: {
      type: 'array',
      minItems: 1,
      description: 'an array of at least one message {"role", "content"}',
      items: {
        type: 'object',
        required: ['role'],
        description: 'an object {"role", "content"}',
        properties: {
          role: {
            type: 'string',
            enum: ['system', 'developer', 'user', 'assistant'],
            description: 'one of "system", "developer", "user" and "assistant"',
          },
          content: optional({
            anyOf: [
              { type: 'string' },
              {
                type: 'array',
                items: { type: 'object', required: ['type'], properties: { type: { type: 'string' } } },
              },
            ],
            description: 'a string or an array of parts {"type": "text", "text"}',
          }),
        },
      },
    },
    max_tokens: TOKEN_COUNT,
    max_completion_tokens: TOKEN_COUNT,
    logprobs: optional({ type: 'boolean', description: 'true or false' }),
    top_logprobs: optional({
      type: 'integer',
      minimum: 0,
      maximum: MAX_TOP_LOGPROBS,
      description: `an integer from 0 to ${MAX_TOP_LOGPROBS}`,
    }),
  },
};

const parseBody = bodyParser<ChatBody>(CHAT_SCHEMA);

/** Throws ServerError invalid_request or unsupported. */
export function parseChat(body: unknown): ChatBody {
  const chat = parseBody(body);
  for (const [param, isHarmless] of Object.entries(REFUSED)) {
    const value = chat[param];
    if (value === undefined || value === null || isHarmless(value)) continue;
    throw new ServerError('unsupported', `${param} is not supported by this server but is ${show(value)}`, { param });
  }
  return chat;
}

/** Messages as the chat template takes them: contents as text, OpenAI's newer name of the system role as the older. */
export function plainMessages(messages: ChatBody['messages']): { role: string; content: string }[] {
  return messages.map(({ role, content }, index) => ({
    role: role === 'developer' ? 'system' : role,
    content: plainText(content ?? '', `messages[${index}].content`),
  }));
}

const isEmptyList = (value: unknown): boolean => Array.isArray(value) && value.length === 0;

/** Fields that change what the answer means, and the values of them that don't. */
const REFUSED: Readonly<Record<string, (value: unknown) => boolean>> = {
  tools: isEmptyList,
  functions: isEmptyList,
  tool_choice: (value) => value === 'none' || value === 'auto',
  function_call: (value) => value === 'none' || value === 'auto',
  response_format: (value) => (value as { type?: unknown }).type === 'text',
  modalities: (value) => Array.isArray(value) && value.every((modality) => modality === 'text'),
  audio: () => false,
  prediction: () => false,
  web_search_options: () => false,
};

function plainText(content: string | readonly TextPart[], param: string): string {
  if (typeof content === 'string') return content;
  return content
    .map((part) => {
      if (part.type === 'text' && typeof part.text === 'string') return part.text;
      throw new ServerError(
        'unsupported',
        `expected parts {"type": "text", "text"} in ${param} but received ${show(part)}`,
        {
          param,
        },
      );
    })
    .join('');
}
