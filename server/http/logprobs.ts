/**
 * Log-probabilities in OpenAI's two shapes. The older one, of /v1/completions, is what published scores are computed from (lm-evaluation-harness compares its
 * doubles for equality), so the token itself is always among `top_logprobs`, under a key of its own, with the very same double.
 */
import type { TokenLogprob } from '../engine/types.js';

/** JSON has no −∞: vLLM's stand-in for a token that can't come. */
const IMPOSSIBLE = -9999;
const BYTE_LABEL = /^bytes:((?:\\x[0-9a-f]{2})+)$/;

/** /v1/completions: parallel arrays, an entry a token. */
export interface CompletionLogprobs {
  readonly tokens: string[];
  readonly token_logprobs: (number | null)[];
  readonly top_logprobs: (Record<string, number> | null)[];
  /** Where each token's text begins in the choice's text, in Unicode characters. */
  readonly text_offset: number[];
}

/** /v1/chat/completions: an object a token. */
export interface ChatTokenLogprob {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: number[];
}

export type ChatLogprobs = ChatTokenLogprob & { readonly top_logprobs: ChatTokenLogprob[] };

export function completionLogprobs(tokens: readonly TokenLogprob[], offsets: readonly number[]): CompletionLogprobs {
  return {
    tokens: tokens.map((token) => token.text),
    token_logprobs: tokens.map((token) => finite(token.logprob)),
    top_logprobs: tokens.map(topLogprobs),
    text_offset: [...offsets],
  };
}

export function chatLogprobs(tokens: readonly TokenLogprob[]): ChatLogprobs[] {
  return tokens.map((token) => ({
    ...chatToken(token.text, token.logprob),
    top_logprobs: token.top.map(({ text, logprob }) => chatToken(text, logprob)),
  }));
}

/** Bytes of a token's text as the engine labels it: UTF-8, or `bytes:\xe6` for what is none by itself. */
export function tokenBytes(text: string): Buffer {
  const match = BYTE_LABEL.exec(text);
  if (!match) return Buffer.from(text);
  const bytes = Buffer.from((match[1] as string).replaceAll('\\x', ''), 'hex');
  // A text that only looks like a label: labels name bytes that are no UTF-8.
  return Buffer.from(bytes.toString()).equals(bytes) ? Buffer.from(text) : bytes;
}

/** Keys in order: likeliest first; the token itself last if it is none of them. null where the token is (the first of a prompt). */
function topLogprobs({ id, text, logprob, top }: TokenLogprob): Record<string, number> | null {
  if (logprob === null) return null;
  const entries = new Map<string, number>();
  for (const other of top) {
    const itself = other.id === id;
    const key = !itself && (other.text === text || entries.has(other.text)) ? `token_id:${other.id}` : other.text;
    entries.set(key, finite(itself ? logprob : other.logprob) as number);
  }
  if (!entries.has(text)) entries.set(text, finite(logprob) as number);
  return Object.fromEntries(entries);
}

function chatToken(text: string, logprob: number | null): ChatTokenLogprob {
  return { token: text, logprob: finite(logprob) ?? 0, bytes: [...tokenBytes(text)] };
}

function finite(logprob: number | null): number | null {
  return logprob === null || Number.isFinite(logprob) ? logprob : IMPOSSIBLE;
}
