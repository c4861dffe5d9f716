/** POST /tokenize, POST /detokenize, GET /tokenizer_info, as lm-evaluation-harness and vLLM's clients ask for them. They depend on the model, not on a task. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Router } from 'express';
import type { SchemaObject } from 'ajv';
import { ServerError } from '../errors.js';
import { methodNotAllowed } from './error-handler.js';
import { jsonBody } from './json-body.js';
import type { Parts } from './parts.js';
import { bodyParser, optional } from './schema.js';

/** The engine's thread tokenises: a longer text would hold up everybody's tokens. */
const MAX_TEXT_CHARACTERS = 512 * 1024;

export const TOKENIZE_SCHEMA: SchemaObject = {
  type: 'object',
  required: ['prompt'],
  properties: {
    prompt: { type: 'string', description: 'a string' },
    add_special_tokens: optional({ type: 'boolean', description: 'true or false' }),
  },
};

export const DETOKENIZE_SCHEMA: SchemaObject = {
  type: 'object',
  required: ['tokens'],
  properties: {
    tokens: { type: 'array', items: { type: 'integer', minimum: 0 }, description: 'an array of token ids' },
  },
};

const parseTokenize = bodyParser<{ prompt: string; add_special_tokens?: boolean | null }>(TOKENIZE_SCHEMA);
const parseDetokenize = bodyParser<{ tokens: number[] }>(DETOKENIZE_SCHEMA);

export function tokenizeRouter({ engine, config, limits }: Parts): Router {
  const router = Router();
  const json = jsonBody(config.maxBodyBytes, limits.jsonBody);
  router
    .route('/tokenize')
    .post(json, async (req, res) => {
      const { prompt, add_special_tokens } = parseTokenize(req.body);
      checkTextLength(prompt, 'prompt');
      const tokens = await engine.tokenize(prompt, add_special_tokens ?? true);
      res.json({ tokens, count: tokens.length, max_model_len: engine.model.contextLength });
    })
    .all(methodNotAllowed('POST'));
  router
    .route('/detokenize')
    .post(json, async (req, res) => {
      const { tokens } = parseDetokenize(req.body);
      checkIds(tokens, engine.model.vocabularySize);
      res.json({ prompt: await engine.detokenize(tokens) });
    })
    .all(methodNotAllowed('POST'));
  router
    .route('/tokenizer_info')
    .get(async (_req, res) => void res.json(await tokenizerInfo(engine.model.directory)))
    .all(methodNotAllowed('GET, HEAD'));
  return router;
}

/** Throws ServerError context_length_exceeded with the numbers. */
export function checkTextLength(text: string, param: string): void {
  if (text.length <= MAX_TEXT_CHARACTERS) return;
  throw new ServerError(
    'context_length_exceeded',
    `expected at most ${MAX_TEXT_CHARACTERS} characters for ${param} but received ${text.length}; send it in parts`,
    { param },
  );
}

function checkIds(ids: readonly number[], vocabulary: number): void {
  const bad = ids.find((id) => id >= vocabulary);
  if (bad === undefined) return;
  const message = `expected token ids from 0 to ${vocabulary - 1} for tokens but received ${bad}`;
  throw new ServerError('invalid_request', message, { param: 'tokens' });
}

interface TokenizerInfo {
  readonly bos_token: string | null;
  readonly eos_token: string | null;
  readonly pad_token: string | null;
  readonly chat_template: string | null;
}

/** From tokenizer_config.json (and chat_template.jinja), where Hugging Face keeps them; null where the model has none. */
async function tokenizerInfo(directory: string): Promise<TokenizerInfo> {
  const settings = JSON.parse((await readIfThere(join(directory, 'tokenizer_config.json'))) ?? '{}') as Record<
    string,
    unknown
  >;
  const template = (await readIfThere(join(directory, 'chat_template.jinja'))) ?? settings['chat_template'];
  return {
    bos_token: tokenText(settings['bos_token']),
    eos_token: tokenText(settings['eos_token']),
    pad_token: tokenText(settings['pad_token']),
    chat_template: typeof template === 'string' ? template : null,
  };
}

async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** A token is its text, or an object with its text as `content`. */
function tokenText(token: unknown): string | null {
  const text = typeof token === 'object' && token !== null ? (token as { content?: unknown }).content : token;
  return typeof text === 'string' ? text : null;
}
