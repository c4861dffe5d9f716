/** The decoder: ContainerReader, checkContainer and decodeMaskSet must agree, and accept nothing but what the encoder writes. */
import { checkContainer, ContainerReader, decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { CODEC_ERRORS, CodecError } from '../../codec/errors.js';
import { nibblesToSymbols } from '../../codec/pattern.js';
import { BASE } from '../codec/random-sets.js';
import { simpleContentDigest } from '../codec/simple-decoder.js';
import { Violation, type FuzzInput, type FuzzTarget } from './target.js';

export function makeTarget(): Promise<FuzzTarget> {
  return Promise.resolve({ run, close: () => Promise.resolve() });
}

function run({ bytes, corpus, blind }: FuzzInput): string {
  const before = Uint8Array.from(bytes);
  const checked = outcome(() => checkContainer(bytes, { expectBase: BASE }));
  const decoded = outcome(() => decodeMaskSet(bytes, { expectBase: BASE }));
  if (checked !== decoded) throw new Violation(`checkContainer says ${checked}, decodeMaskSet ${decoded}`);
  if (!equal(bytes, before)) throw new Violation('the input was written to');
  if (checked === 'accepted') {
    if (blind && !corpus.some((valid) => equal(bytes, valid))) throw new Violation('changed bytes were accepted');
    verifyAccepted(bytes);
  }
  return checked;
}

/** `accepted` or the code; any other error than a well-formed CodecError is a violation. */
function outcome(read: () => unknown): string {
  try {
    read();
    return 'accepted';
  } catch (error) {
    if (!(error instanceof CodecError) || !(error.code in CODEC_ERRORS)) throw error;
    if (!/^expected [^\n]+, got [^\n]+$/.test(error.message)) throw new Violation(`unclear message: ${error.message}`);
    return error.code;
  }
}

/**
 * The format has one container for a set, an order of its tensors and a chunk size; so whatever is accepted must be what the encoder
 * writes for what was decoded, and its content digest that of the definition.
 */
function verifyAccepted(bytes: Uint8Array): void {
  const reader = new ContainerReader(bytes);
  const set = reader.maskSet();
  const { content, chunkSymbols } = reader.summary;
  const again = encodeMaskSet(set, { chunkLog2: Math.log2(chunkSymbols) });
  if (!equal(again, bytes)) throw new Violation('accepted bytes are not what the encoder writes for the decoded set');
  const tensors = set.masks.map((mask) => ({ ...mask, symbols: [...mask.symbols] }));
  if (simpleContentDigest({ ...set, tensors }) !== content)
    throw new Violation('the content digest is not the content’s');
  if (set.n !== 2) return;
  set.masks.forEach(({ symbols }, i) => {
    if (!equal(nibblesToSymbols(reader.nibbles(i), symbols.length), symbols)) {
      throw new Violation('nibbles and symbols differ');
    }
  });
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
