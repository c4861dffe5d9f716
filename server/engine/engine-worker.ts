/** The engine thread: receives requests, runs the scheduler's steps back to back, looks at new messages between two steps. */
import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import { native } from '../../kernels/index.js';
import { ServerError } from '../errors.js';
import { renderChat } from './chat-template.js';
import { loadModel, type Model } from './model.js';
import { toWire, type EngineOptions, type FromEngine, type ToEngine } from './protocol.js';
import { Scheduler } from './scheduler.js';
import type { DeviceMemory } from './types.js';

/** Of what the weights leave free of a GPU's memory. */
const KV_SHARE_OF_DEVICE = 1 / 4;

const port = parentPort as MessagePort;
const options = workerData as EngineOptions;
native.useBackend(options.backend);
const model = loadModel(options.modelDirectory, {
  threads: options.threads,
  denseOnHost: options.denseOnHost,
  kvType: options.kvType,
  autotune: options.autotune,
  ...(options.maxContext === undefined ? {} : { maxContext: options.maxContext }),
});
const device = deviceMemory();
const kvBytes = options.kvBytes ?? Math.floor((device?.freeBytes ?? 0) * KV_SHARE_OF_DEVICE);
const scheduler = new Scheduler(model, { kvBudgetBytes: kvBytes, maxRunning: options.maxRunning });
let stepping = false;
let reported = '';

port.on('message', (message: ToEngine) => {
  receive(message);
  if (!stepping) {
    stepping = true;
    setImmediate(turn);
  }
});
send({ type: 'ready', model: model.info, device, kvBytes });

function deviceMemory(): DeviceMemory | null {
  const { device } = native.info();
  return device === null ? null : { name: device, ...native.memory() };
}

function send(message: FromEngine): void {
  port.postMessage(message);
}

/** setImmediate lets messages in between two steps: an abort or a new request waits for one step at most. */
function turn(): void {
  stepping = scheduler.step();
  report();
  if (stepping) setImmediate(turn);
}

function report(): void {
  const stats = scheduler.stats();
  const text = JSON.stringify(stats);
  if (text === reported) return;
  reported = text;
  send({ type: 'stats', stats });
}

function receive(message: ToEngine): void {
  switch (message.type) {
    case 'abort':
      return scheduler.abort(message.id);
    case 'drain':
      return scheduler.rejectWaiting(
        new ServerError('shutting_down', 'the server is shutting down; try another one, or again in a moment'),
      );
    default:
      return answer(message);
  }
}

function answer(message: Exclude<ToEngine, { type: 'abort' | 'drain' }>): void {
  const { id } = message;
  const fail = (error: unknown): void => send({ type: 'failed', id, error: toWire(error) });
  try {
    switch (message.type) {
      case 'generate':
        return scheduler.generate(id, message.request, { emit: (event) => send({ type: 'event', id, event }), fail });
      case 'evaluate':
        return scheduler.evaluate(id, message.request, { emit: (value) => send({ type: 'result', id, value }), fail });
      case 'tokenize':
        return send({ type: 'result', id, value: tokenizerOf(model).encode(message.text, message.addSpecialTokens) });
      case 'detokenize':
        return send({ type: 'result', id, value: tokenizerOf(model).decode(message.ids) });
      case 'chat':
        return send({ type: 'result', id, value: renderChat(model.tokenizer, message.messages) });
    }
  } catch (error) {
    fail(error);
  }
}

function tokenizerOf({ tokenizer }: Model): NonNullable<Model['tokenizer']> {
  if (!tokenizer) throw new ServerError('unsupported', 'this model directory has no tokenizer.json');
  return tokenizer;
}
