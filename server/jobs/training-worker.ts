/**
 * Worker thread: trains one mask and ends. It loads the model itself, whose mapped pages are shared with the engine (a GPU holds a copy of its own), and yields the processor:
 * its threads run at a lower priority than those that serve.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import { decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { native } from '../../kernels/index.js';
import { DeviceFull } from '../engine/device-budget.js';
import { loadModel, type Model } from '../engine/model.js';
import { frozenWeights } from '../store/frozen-weights.js';
import { runTraining } from '../trainer/run.js';
import { TrainingStopped } from '../trainer/run-steps.js';
import { textOf } from './request.js';
import {
  DROP,
  SAVE,
  type FromTraining,
  type Learned,
  type TrainingOrder,
  type TrainingOutcome,
} from './training-protocol.js';

/** Beside a thread that serves, a thread that trains gets a tenth of a core (nice 10); alone it gets all of it. */
const NICE = 10;

const MAKE_ROOM =
  'post it with a smaller batch or seq, or start the server with a lower --cache-bytes or with --train-backend cpu, or train with "maskctl train --local --backend cpu"';

/** Nobody wants the result, or nothing is there to be saved. */
class Dropped extends Error {}

const port = parentPort as MessagePort;
const order = workerData as TrainingOrder;
const room = order.deviceBytes === undefined ? {} : { deviceBytes: order.deviceBytes };

yieldToOthers();
const outcome = await train();
send(outcome, outcome.type === 'learned' ? buffersOf(outcome.learned) : []);

async function train(): Promise<TrainingOutcome> {
  let model: Model | undefined;
  try {
    const { modelDirectory, threads, maxContext, backend } = order;
    native.setThreads(threads); // of the host, where some of a run is computed wherever it trains
    native.useBackend(backend);
    native.giveWay();
    model = loadModel(modelDirectory, { threads, ...room, ...(maxContext === undefined ? {} : { maxContext }) });
    return { type: 'learned', learned: await learn(model) };
  } catch (error) {
    if (error instanceof Dropped || error instanceof TrainingStopped) return { type: 'stopped' };
    return { type: 'failed', message: messageOf(error) };
  } finally {
    model?.dispose();
  }
}

/** What the person who posted the job, or who runs the server, can do where the GPU has not the room. */
function messageOf(error: unknown): string {
  if (error instanceof DeviceFull) return `${error.expected}; ${MAKE_ROOM}`;
  return error instanceof Error ? error.message : String(error);
}

/** Throws Dropped, TrainingStopped, or what the trainer says. */
async function learn(model: Model): Promise<Learned> {
  const { task, from, settings, force, tuneTeacher } = order;
  const parent = readParent(model);
  const { directory, everySeconds } = order.checkpoint;
  const stopper = new AbortController();
  const request = { task, ...(from === undefined ? {} : { from }), ...readText(), settings, force };
  const events = runTraining(model, request, {
    ...(parent ? { parent } : {}),
    ...room,
    ...(tuneTeacher ? { teacher: { kind: 'tuned', ...tuneTeacher } } : {}),
    signal: stopper.signal,
    checkpoint: { directory, every: 0, everySeconds, resume: isSaved(directory) },
    onProgress: (stage, done, of) => {
      // a teacher that is tuned saves its state and stops; whatever else comes before the first step has none
      if (stopWord() === DROP || stopper.signal.aborted) throw new Dropped();
      if (stopWord() === SAVE) stopper.abort();
      send({ type: 'progress', stage, done, of });
    },
  });
  let next = await events.next();
  for (; !next.done; next = await events.next()) {
    send({ type: 'event', event: next.value });
    if (stopWord() === DROP) await events.throw(new Dropped());
    if (stopWord() === SAVE) stopper.abort();
  }
  return encoded(next.value, model, parent);
}

/** The job's copy of its parent decodes by itself: it was flattened, or stored so, when the job was posted. */
function readParent(model: Model): MaskSet | undefined {
  if (order.parent === undefined) return undefined;
  return decodeMaskSet(readFileSync(order.parent), { expectBase: model.info.base });
}

/** A patch of the parent; and without it too, for its parent may have been removed while this ran. Both may need the weights. */
function encoded(set: MaskSet, model: Model, parent: MaskSet | undefined): Learned {
  const weights = frozenWeights(model.info.maskable);
  const flat = encodeMaskSet(set, { context: { weights } });
  return parent === undefined ? { flat } : { flat, patch: encodeMaskSet(set, { context: { parent, weights } }) };
}

function buffersOf({ flat, patch }: Learned): ArrayBuffer[] {
  return [flat, ...(patch ? [patch] : [])].map(({ buffer }) => buffer as ArrayBuffer);
}

function readText(): ReturnType<typeof textOf> {
  return textOf(JSON.parse(readFileSync(order.request, 'utf8')));
}

function isSaved(directory: string): boolean {
  if (!existsSync(directory)) return false;
  return readdirSync(directory, { recursive: true }).some((name) => String(name).endsWith('.safetensors'));
}

function stopWord(): number {
  return Atomics.load(order.stop, 0);
}

function send(message: FromTraining, transfer: readonly ArrayBuffer[] = []): void {
  port.postMessage(message, [...transfer]);
}

/** On Linux a priority belongs to a thread, and threads that it starts (the kernels' pool) inherit it; elsewhere it would slow the whole process. */
function yieldToOthers(): void {
  if (process.platform === 'linux') setPriority(NICE);
}
