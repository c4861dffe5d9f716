/** Token by token → text that can be shown: whole UTF-8 characters only, and nothing that may still become a stop string. */
import { StringDecoder } from 'node:string_decoder';
import type { ModelTokenizer } from './tokenizer.js';

export class Detokenizer {
  private readonly decoder = new StringDecoder('utf8');
  /** Decoded, not yet shown: ends in what may be the start of a stop string. */
  private held = '';
  stopped = false;

  constructor(
    private readonly tokenizer: ModelTokenizer,
    private readonly stops: readonly string[],
  ) {}

  /** Text that became certain with this token. Sets `stopped` once a stop string is complete; text ends before it. */
  push(id: number): string {
    return this.release(this.decoder.write(Buffer.from(this.tokenizer.bytes(id))), false);
  }

  /** What is left at the end of a sequence; an unfinished UTF-8 character becomes U+FFFD. */
  flush(): string {
    return this.release(this.decoder.end(), true);
  }

  private release(text: string, last: boolean): string {
    if (this.stopped) return '';
    this.held += text;
    const at = firstIndexOfAny(this.held, this.stops);
    if (at >= 0) {
      this.stopped = true;
      return this.take(at);
    }
    return this.take(last ? this.held.length : this.held.length - pendingLength(this.held, this.stops));
  }

  private take(length: number): string {
    const shown = this.held.slice(0, length);
    this.held = this.held.slice(length);
    return shown;
  }
}

function firstIndexOfAny(text: string, stops: readonly string[]): number {
  const found = stops.map((stop) => text.indexOf(stop)).filter((index) => index >= 0);
  return found.length === 0 ? -1 : Math.min(...found);
}

/** Length of the longest suffix of `text` that is a proper prefix of a stop string. */
function pendingLength(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) longest = length;
    }
  }
  return longest;
}
