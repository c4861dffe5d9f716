/** An engine in its own process: answers the bench's requests (protocol.ts) from standard input, one after the other, and ends with it. */
import { createInterface } from 'node:readline';
import { milliseconds } from './clock.js';
import {
  type EngineRequest,
  type EngineSettings,
  type LayerRequest,
  type LogitsAnswer,
  type PassAnswer,
  type PassRequest,
  tokenAt,
} from './protocol.js';

/** A model and the sequences that it has read. */
export interface Engine {
  readonly name: string;
  /** Forgets every sequence. */
  reset(): void;
  /** Appends `batch[s]` to sequence s (all of one length), and computes the logits of each one's last token. */
  feed(batch: readonly Int32Array[]): Promise<void> | void;
  /** (V) of the last sequence of the last `feed`. */
  logits(): Promise<Float32Array> | Float32Array;
}

/** The products of one layer. */
export interface Layers {
  readonly name: string;
  /** Milliseconds of one product. */
  measure(request: LayerRequest): Promise<number> | number;
}

/** Read before a pass is timed, so that code and a first part of the weights are where they will be needed. */
const WARM_UP_TOKENS = 8;

export async function serveModel(engine: Engine, settings: EngineSettings): Promise<void> {
  await answer(engine.name, async (request) => {
    if (request.op === 'pass') return pass(engine, settings, request);
    if (request.op === 'logits') return logits(engine, settings, request);
    throw new Error('a model has no layer to measure');
  });
}

export async function serveLayers(layers: Layers): Promise<void> {
  await answer(layers.name, async (request) => {
    if (request.op === 'layer') return { ms: await layers.measure(request) };
    throw new Error('expected a layer to measure');
  });
}

async function answer(name: string, reply: (request: EngineRequest) => Promise<object>): Promise<void> {
  send({ engine: name });
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      send(await reply(JSON.parse(line) as EngineRequest));
    } catch (error) {
      send({ error: (error as Error).message });
    }
  }
}

function send(message: object): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

async function pass(engine: Engine, settings: EngineSettings, request: Omit<PassRequest, 'op'>): Promise<PassAnswer> {
  const { clock } = settings;
  const { sequences, depth, steps } = request;
  engine.reset();
  await engine.feed(tokens(settings, 1, 0, WARM_UP_TOKENS));
  engine.reset();
  const prompt = tokens(settings, sequences, 0, depth);
  const batches = Array.from({ length: steps }, (_, step) => tokens(settings, sequences, depth + step, 1));
  const started = milliseconds(clock);
  await engine.feed(prompt);
  const read = milliseconds(clock);
  for (const batch of batches) await engine.feed(batch);
  return { prefillMs: read - started, decodeMs: milliseconds(clock) - read };
}

async function logits(
  engine: Engine,
  settings: EngineSettings,
  request: Omit<PassRequest, 'op'>,
): Promise<LogitsAnswer> {
  const { sequences, depth, steps } = request;
  const found: string[] = [];
  engine.reset();
  for (let step = 0; step <= steps; step++) {
    await engine.feed(tokens(settings, sequences, step === 0 ? 0 : depth + step - 1, step === 0 ? depth : 1));
    const row = await engine.logits();
    found.push(Buffer.from(row.buffer, row.byteOffset, row.byteLength).toString('base64'));
  }
  return { logits: found };
}

/** `count` tokens of each sequence from `first`. */
function tokens({ vocab }: EngineSettings, sequences: number, first: number, count: number): Int32Array[] {
  return Array.from({ length: sequences }, (_, sequence) =>
    Int32Array.from({ length: count }, (_, i) => tokenAt(vocab, sequence, first + i)),
  );
}
