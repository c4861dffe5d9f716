/** The decoder: ContainerReader, checkContainer and decodeMaskSet must agree, with the decoder written from FORMAT.md alone too. */
import { checkContainer, ContainerReader, decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { CODEC_ERRORS, CodecError } from '../../codec/errors.js';
import { nibblesToSymbols } from '../../codec/pattern.js';
import { BASE, simpleContext } from '../codec/random-sets.js';
import { simpleContentDigest } from '../codec/simple-content.js';
import { simpleDecode } from '../codec/simple-decoder.js';
import { contextFor } from './mutate.js';
import { Violation, type FuzzInput, type FuzzTarget } from './target.js';

export function makeTarget(): Promise<FuzzTarget> {
  return Promise.resolve({ run, close: () => Promise.resolve() });
}

function run({ bytes, corpus, blind }: FuzzInput): string {
  const before = Uint8Array.from(bytes);
  const options = { expectBase: BASE, context: contextFor(bytes) };
  const checked = outcome(() => checkContainer(bytes, options));
  const decoded = outcome(() => decodeMaskSet(bytes, options));
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

/** Whatever is accepted means the same to the second decoder, and comes back from a container of the encoder's own. */
function verifyAccepted(bytes: Uint8Array): void {
  const context = contextFor(bytes);
  const reader = new ContainerReader(bytes, { context });
  const set = reader.maskSet();
  const { content, parent } = reader.summary;
  const simple = simpleDecode(bytes, simpleContext(context));
  const same = simple.tensors.every(({ symbols }, i) => equal(Uint8Array.from(symbols), set.masks[i]!.symbols));
  if (!same) throw new Violation('the second decoder reads other symbols');
  if (simpleContentDigest(simple) !== content) throw new Violation('the content digest is not the content’s');
  const again = new ContainerReader(encodeMaskSet(set)).summary;
  if (again.content !== content || again.parent !== parent) throw new Violation('encoded again it is another set');
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
