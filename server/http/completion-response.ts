/** OpenAI's `text_completion` objects, whole and as stream chunks, made from the engine's events. */
import type { FinishReason, GenerateEvent, ModelInfo, TokenLogprob } from '../engine/types.js';
import { completionLogprobs, type CompletionLogprobs } from './logprobs.js';
import { TextOffsets } from './text-offsets.js';

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
}

/** What every object of one answer begins with. */
export interface Envelope {
  readonly id: string;
  readonly object: string;
  /** Unix seconds. */
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

export interface CompletionChoice {
  readonly index: number;
  readonly text: string;
  readonly logprobs: CompletionLogprobs | null;
  readonly finish_reason: FinishReason | null;
}

export interface ChoiceOptions {
  readonly index: number;
  readonly echo: boolean;
  readonly logprobs: boolean;
  /** The prompt as the client wrote it; undefined for token ids, whose text the engine makes. */
  readonly promptText: string | undefined;
}

/** One choice's events → the pieces of its text. */
export class ChoiceText {
  private readonly offsets: TextOffsets;

  constructor(
    private readonly options: ChoiceOptions,
    model: ModelInfo,
  ) {
    const { bosId, eosIds } = model;
    this.offsets = new TextOffsets(new Set(bosId === undefined ? eosIds : [bosId, ...eosIds]));
  }

  /** Undefined where the event shows nothing. */
  piece(event: GenerateEvent): CompletionChoice | undefined {
    switch (event.type) {
      case 'prompt':
        return this.options.echo ? this.echo(event.text, event.tokens) : undefined;
      case 'delta':
        return this.choice(event.text, event.tokens, this.offsets.generated(event.tokens), null);
      case 'done':
        return this.choice('', [], [], event.finishReason);
    }
  }

  private echo(decoded: string, tokens: readonly TokenLogprob[]): CompletionChoice {
    const text = this.options.promptText ?? decoded;
    return this.choice(text, tokens, this.offsets.prompt(tokens, text), null);
  }

  private choice(
    text: string,
    tokens: readonly TokenLogprob[],
    offsets: readonly number[],
    finish: FinishReason | null,
  ): CompletionChoice {
    const logprobs = this.options.logprobs ? completionLogprobs(tokens, offsets) : null;
    return { index: this.options.index, text, logprobs, finish_reason: finish };
  }
}

/** Pieces of one choice, in order → the choice as a whole. */
export function joinPieces(index: number, pieces: readonly CompletionChoice[]): CompletionChoice {
  const parts = pieces.map((piece) => piece.logprobs).filter((part) => part !== null);
  return {
    index,
    text: pieces.map((piece) => piece.text).join(''),
    logprobs:
      parts.length === 0
        ? null
        : {
            tokens: parts.flatMap((part) => part.tokens),
            token_logprobs: parts.flatMap((part) => part.token_logprobs),
            top_logprobs: parts.flatMap((part) => part.top_logprobs),
            text_offset: parts.flatMap((part) => part.text_offset),
          },
    finish_reason: pieces[pieces.length - 1]?.finish_reason ?? null,
  };
}

/** Counts tokens over all choices. A prompt is counted once, however many choices it has. */
export class UsageCount {
  private prompt = 0;
  private completion = 0;

  constructor(private readonly n: number) {}

  count(index: number, event: GenerateEvent): void {
    if (event.type !== 'done') return;
    if (index % this.n === 0) this.prompt += event.promptTokens;
    this.completion += event.completionTokens;
  }

  total(): Usage {
    return {
      prompt_tokens: this.prompt,
      completion_tokens: this.completion,
      total_tokens: this.prompt + this.completion,
    };
  }
}
