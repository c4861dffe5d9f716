/** Renders a model's own chat template (Jinja, through @huggingface/jinja). */
import { Template } from '@huggingface/jinja';
import { ServerError } from '../errors.js';
import type { ModelTokenizer } from './tokenizer.js';

export interface ChatMessage {
  readonly role: string;
  readonly content: string;
}

/** The prompt for the assistant's next turn. Throws ServerError `unsupported` when there is no template, `invalid_request` when it refuses the messages. */
export function renderChat(tokenizer: ModelTokenizer | undefined, messages: readonly ChatMessage[]): string {
  if (!tokenizer?.chatTemplate) {
    throw new ServerError(
      'unsupported',
      'this model has no chat template: it is a base model; send the text to /v1/completions instead',
    );
  }
  try {
    return new Template(tokenizer.chatTemplate).render({
      messages: messages as ChatMessage[],
      add_generation_prompt: true,
      ...tokenizer.specialTexts,
    });
  } catch (cause) {
    throw new ServerError(
      'invalid_request',
      `the model's chat template refused the messages: ${(cause as Error).message}`,
      {
        param: 'messages',
        cause,
      },
    );
  }
}
