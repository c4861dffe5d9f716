/**
 * Range asymmetric numeral systems (Duda, arXiv 1311.2540) as FORMAT.md §8.1 fixes them: 32 bits of state, 14 bits of probability, 16-bit
 * words, any number of lanes that share one sequence of words.
 */
import { PROBABILITY_BITS, TOTAL, type FrequencyTables } from './frequency-table.js';

/** Where every state starts in the encoder and ends in the decoder; below it a word is read. */
const LOWEST = 2 ** 16;
const STATE_BYTES = 4;
/** More raw bits are decoded in two parts. */
const RAW_BITS = 14;
/** Tables of more symbols are searched by halves. */
const LINEAR_SEARCH = 8;

export class RansReader {
  private readonly states: Uint32Array;
  private at: number;
  private sound = true;

  /** `chunk` has at least 4 bytes a lane. */
  constructor(
    private readonly chunk: Uint8Array,
    lanes: number,
  ) {
    const view = new DataView(chunk.buffer, chunk.byteOffset);
    this.states = Uint32Array.from({ length: lanes }, (_, lane) => view.getUint32(STATE_BYTES * lane, true));
    this.sound = this.states.every((state) => state >= LOWEST);
    this.at = STATE_BYTES * lanes;
  }

  /** Next symbol of a lane by the table of a context. Any bytes decode to some symbols. */
  symbol(lane: number, { list, cum }: FrequencyTables, context: number): number {
    const state = this.states[lane]!;
    const slot = state & (TOTAL - 1);
    const first = context * (list.symbols + 1);
    const at = list.symbols <= LINEAR_SEARCH ? scan(cum, first, slot) : halve(cum, first, list.symbols, slot);
    const low = cum[at]!;
    this.states[lane] = Math.imul(cum[at + 1]! - low, state >>> PROBABILITY_BITS) + slot - low;
    this.refill(lane);
    return at - first;
  }

  /** Next `bits` raw bits of a lane, at most 28. */
  raw(lane: number, bits: number): number {
    if (bits > RAW_BITS) {
      const low = this.raw(lane, RAW_BITS);
      return low + this.raw(lane, bits - RAW_BITS) * 2 ** RAW_BITS;
    }
    const state = this.states[lane]!;
    this.states[lane] = state >>> bits;
    this.refill(lane);
    return state & ((1 << bits) - 1);
  }

  /** Whether the chunk is exactly what the writer makes of the symbols that were read. */
  get ended(): boolean {
    return this.sound && this.at === this.chunk.length && this.states.every((state) => state === LOWEST);
  }

  private refill(lane: number): void {
    const state = this.states[lane]!;
    if (state >= LOWEST) return;
    const { chunk, at } = this;
    if (at + 1 >= chunk.length) this.sound = false;
    this.states[lane] = (state << 16) | (chunk[at] ?? 0) | ((chunk[at + 1] ?? 0) << 8);
    this.at = at + 2;
  }
}

/** Takes what a reader is to read, in its order, and writes the chunk when all is known: rANS encodes backwards. */
export class RansWriter {
  /** Of each step its lane, its frequency and start, or 0 and the raw bits and their number. */
  private lane = new Uint8Array(1024);
  private frequency = new Uint16Array(1024);
  private start = new Uint16Array(1024);
  private bits = new Uint8Array(1024);
  private steps = 0;

  constructor(private readonly lanes: number) {}

  symbol(lane: number, { list, cum }: FrequencyTables, context: number, symbol: number): void {
    const at = context * (list.symbols + 1) + symbol;
    const frequency = cum[at + 1]! - cum[at]!;
    if (frequency === 0) throw new RangeError(`expected a symbol that occurs in ${list.name}, got ${symbol}`);
    this.push(lane, frequency, cum[at]!, 0);
  }

  raw(lane: number, bits: number, value: number): void {
    if (bits === 0) return;
    if (bits > RAW_BITS) {
      this.raw(lane, RAW_BITS, value % 2 ** RAW_BITS);
      this.raw(lane, bits - RAW_BITS, Math.floor(value / 2 ** RAW_BITS));
    } else {
      this.push(lane, 0, value, bits);
    }
  }

  /** The chunk's bytes. */
  finish(): Uint8Array {
    const out = new Uint8Array(STATE_BYTES * this.lanes + 2 * this.steps);
    const states = new Float64Array(this.lanes).fill(LOWEST);
    let at = out.length;
    for (let i = this.steps - 1; i >= 0; i--) {
      const lane = this.lane[i]!;
      const bits = this.bits[i]!;
      const frequency = this.frequency[i]!;
      let state = states[lane]!;
      if (state >= (bits > 0 ? 2 ** (32 - bits) : frequency * 2 ** 18)) {
        out[--at] = (state >>> 8) & 0xff;
        out[--at] = state & 0xff;
        state = state >>> 16;
      }
      if (bits > 0) states[lane] = state * 2 ** bits + this.start[i]!;
      else {
        const quotient = Math.floor(state / frequency);
        states[lane] = quotient * TOTAL + this.start[i]! + (state - quotient * frequency);
      }
    }
    const words = at;
    at -= STATE_BYTES * this.lanes;
    const view = new DataView(out.buffer);
    states.forEach((state, lane) => view.setUint32(at + STATE_BYTES * lane, state, true));
    return out.slice(Math.min(at, words));
  }

  private push(lane: number, frequency: number, start: number, bits: number): void {
    if (this.steps === this.lane.length) this.grow();
    this.lane[this.steps] = lane;
    this.frequency[this.steps] = frequency;
    this.start[this.steps] = start;
    this.bits[this.steps++] = bits;
  }

  private grow(): void {
    const capacity = 2 * this.lane.length;
    const larger = <T extends Uint8Array | Uint16Array>(from: T, to: T): T => (to.set(from), to);
    this.lane = larger(this.lane, new Uint8Array(capacity));
    this.frequency = larger(this.frequency, new Uint16Array(capacity));
    this.start = larger(this.start, new Uint16Array(capacity));
    this.bits = larger(this.bits, new Uint8Array(capacity));
  }
}

/** Where the symbol of a slot starts in a table from `first`. */
function scan(cum: Uint16Array, first: number, slot: number): number {
  let at = first;
  while (cum[at + 1]! <= slot) at++;
  return at;
}

function halve(cum: Uint16Array, first: number, symbols: number, slot: number): number {
  let low = first;
  let high = first + symbols; // cum[low] <= slot < cum[high]
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    if (cum[middle]! <= slot) low = middle;
    else high = middle;
  }
  return low;
}
