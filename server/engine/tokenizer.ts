/**
 * Text ↔ token ids. Encoding is @huggingface/tokenizers'. Decoding is by bytes: every token has a fixed byte string (byte-level BPE's alphabet, or
 * SentencePiece's ▁ and <0xNN>), so that a stream can be cut anywhere and still give whole UTF-8 characters.
 */
import { Tokenizer } from '@huggingface/tokenizers';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ModelConfig } from './model-config.js';

export interface ModelTokenizer {
  /** Special tokens in the text are parsed; `addSpecialTokens` adds the tokenizer's own BOS where it has one. */
  encode(text: string, addSpecialTokens: boolean): number[];
  /** Bytes of one token; empty for special tokens (they end or separate text, they are not text). */
  bytes(id: number): Uint8Array;
  /** The token's own text for logprobs: unique, `bytes:\xNN…` where it is not UTF-8 by itself. */
  label(id: number): string;
  /** Text of a whole sequence, special tokens skipped. */
  decode(ids: readonly number[]): string;
  readonly chatTemplate: string | undefined;
  /** Texts of bos and eos for chat templates. */
  readonly specialTexts: { readonly bos_token: string; readonly eos_token: string };
}

interface TokenizerJson {
  readonly added_tokens?: readonly { readonly id: number; readonly content: string; readonly special: boolean }[];
  readonly decoder?: DecoderJson | null;
}

interface DecoderJson {
  readonly type: string;
  readonly decoders?: readonly DecoderJson[];
  readonly content?: string;
}

/** Reads tokenizer.json and tokenizer_config.json. Undefined where the directory has no tokenizer. */
export function loadTokenizer(directory: string, config: ModelConfig): ModelTokenizer | undefined {
  const file = join(directory, 'tokenizer.json');
  if (!existsSync(file)) return undefined;
  const json = parse<TokenizerJson>(file);
  const settingsFile = join(directory, 'tokenizer_config.json');
  const settings = existsSync(settingsFile) ? parse<Record<string, unknown>>(settingsFile) : {};
  return new HuggingFaceTokenizer(json, settings, readChatTemplate(directory, settings), config.vocab);
}

function parse<T>(file: string): T {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as T;
  } catch (cause) {
    throw new Error(`expected valid JSON in ${file}: ${(cause as Error).message}`, { cause });
  }
}

function readChatTemplate(directory: string, settings: Record<string, unknown>): string | undefined {
  const file = join(directory, 'chat_template.jinja');
  if (existsSync(file)) return readFileSync(file, 'utf8');
  const template = settings['chat_template'];
  return typeof template === 'string' ? template : undefined;
}

class HuggingFaceTokenizer implements ModelTokenizer {
  readonly specialTexts;
  private readonly tokenizer: Tokenizer;
  private readonly special = new Map<number, string>();
  private readonly table: readonly Uint8Array[];
  /** SentencePiece decoders drop the space that the normalizer put in front of a text. */
  private readonly stripsLeadingSpace: boolean;

  constructor(
    json: TokenizerJson,
    settings: Record<string, unknown>,
    readonly chatTemplate: string | undefined,
    vocab: number,
  ) {
    this.tokenizer = new Tokenizer(json, settings);
    this.specialTexts = { bos_token: content(settings['bos_token']), eos_token: content(settings['eos_token']) };
    const added = new Map<number, string>();
    for (const token of json.added_tokens ?? []) {
      if (token.special) this.special.set(token.id, token.content);
      added.set(token.id, token.content);
    }
    const decoders = flatten(json.decoder);
    const byteLevel = decoders.some((decoder) => decoder.type === 'ByteLevel');
    this.stripsLeadingSpace = decoders.some(
      (decoder) => (decoder.type === 'Strip' && decoder.content === ' ') || decoder.type === 'Metaspace',
    );
    this.table = Array.from({ length: vocab }, (_, id) => {
      const text = added.get(id);
      if (text !== undefined) return Buffer.from(text);
      const token = this.tokenizer.id_to_token(id) ?? '';
      return byteLevel ? byteLevelBytes(token) : sentencePieceBytes(token);
    });
  }

  encode(text: string, addSpecialTokens: boolean): number[] {
    return this.tokenizer.encode(text, { add_special_tokens: addSpecialTokens }).ids;
  }

  bytes(id: number): Uint8Array {
    return this.special.has(id) ? EMPTY : (this.table[id] ?? EMPTY);
  }

  label(id: number): string {
    const bytes = this.table[id] ?? EMPTY;
    const text = this.special.get(id) ?? Buffer.from(bytes).toString('utf8');
    if (!text.includes('\ufffd') || Buffer.from(text).equals(bytes)) return text;
    return `bytes:${[...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`;
  }

  decode(ids: readonly number[]): string {
    const text = Buffer.concat(ids.map((id) => this.bytes(id))).toString('utf8');
    return this.stripsLeadingSpace && text.startsWith(' ') ? text.slice(1) : text;
  }
}

const EMPTY = new Uint8Array(0);

function content(token: unknown): string {
  if (typeof token === 'string') return token;
  const text = (token as { content?: unknown } | null | undefined)?.content;
  return typeof text === 'string' ? text : '';
}

function flatten(decoder: DecoderJson | null | undefined): DecoderJson[] {
  if (!decoder) return [];
  return decoder.decoders ? decoder.decoders.flatMap(flatten) : [decoder];
}

/** GPT-2's bytes_to_unicode: printable bytes stand for themselves, the other 68 for code points from 256 on. */
const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    map.set(String.fromCodePoint(printable ? byte : next++), byte);
  }
  return map;
})();

function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of token) {
    const byte = BYTE_OF_CHARACTER.get(character);
    if (byte === undefined) bytes.push(...Buffer.from(character));
    else bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

function sentencePieceBytes(token: string): Uint8Array {
  const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
  return byte ? Uint8Array.of(Number.parseInt(byte[1] as string, 16)) : Buffer.from(token.replaceAll('▁', ' '));
}
