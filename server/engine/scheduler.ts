/**
 * Which work runs next. All sequences that decode take a step together, whatever their tasks; between two such steps, one piece of other work takes one (a prefill
 * chunk, a window of an evaluation), round robin, so that a long prompt delays tokens by one chunk at most. Sequences start in order of arrival when their cache fits
 * the budget.
 */
import { ServerError } from '../errors.js';
import { Evaluation } from './evaluate.js';
import { HEAD_ROWS } from './llama.js';
import type { Model } from './model.js';
import { Sequence } from './sequence.js';
import type {
  EngineStats,
  EvaluateRequest,
  EvaluateResult,
  GenerateEvent,
  GenerateRequest,
  TaskWeights,
} from './types.js';

/** What came of a piece of work, told to whoever asked for it. */
export interface Outcome<T> {
  readonly emit: (value: T) => void;
  readonly fail: (error: unknown) => void;
}

interface Work {
  readonly id: number;
  /** Undefined: not a sequence. */
  readonly sequence?: Sequence;
  /** True when it has ended. */
  readonly step: () => boolean;
  readonly fail: (error: unknown) => void;
  readonly dispose: () => void;
  readonly kvBytes: number;
}

interface Waiting {
  readonly id: number;
  readonly kvBytes: number;
  readonly start: () => Work;
  readonly fail: (error: unknown) => void;
}

export class Scheduler {
  private readonly waiting: Waiting[] = [];
  private readonly running: Work[] = [];
  private kvBytes = 0;
  /** The last piece of other work that took a step. */
  private turn = -1;
  private decodedLast = false;

  constructor(
    private readonly model: Model,
    private readonly limits: { readonly kvBudgetBytes: number; readonly maxRunning: number },
  ) {}

  /** Checks a request against the model and the budget, then queues it. Throws ServerError. */
  generate(id: number, request: GenerateRequest, outcome: Outcome<GenerateEvent>): void {
    refuseIfDense(this.model, request.weights);
    const ids = promptIds(this.model, request);
    const kvBytes = Sequence.kvBytes(this.model, ids.length, request);
    const queuedAt = performance.now();
    this.enqueue({
      id,
      kvBytes,
      fail: outcome.fail,
      start: () => {
        const sequence = new Sequence(this.model, request, ids, queuedAt, outcome.emit);
        const step = (): boolean => {
          sequence.step();
          return sequence.done;
        };
        return { id, sequence, kvBytes, step, fail: outcome.fail, dispose: () => sequence.dispose() };
      },
    });
  }

  evaluate(id: number, request: EvaluateRequest, outcome: Outcome<EvaluateResult>): void {
    refuseIfDense(this.model, request.weights);
    this.enqueue({
      id,
      kvBytes: 0,
      fail: outcome.fail,
      start: () => {
        const evaluation = new Evaluation(this.model, request);
        const step = (): boolean => {
          const last = evaluation.step();
          if (last) outcome.emit(evaluation.result());
          return last;
        };
        return { id, kvBytes: 0, step, fail: outcome.fail, dispose: () => evaluation.dispose() };
      },
    });
  }

  /** Runs one step. False when there was nothing to do. */
  step(): boolean {
    this.admit();
    const decoding = this.running.filter((work) => work.sequence?.decoding);
    const others = this.running.filter((work) => !work.sequence?.decoding);
    if (decoding.length > 0 && !(this.decodedLast && others.length > 0)) {
      this.decodedLast = true;
      this.decode(decoding);
    } else if (others.length > 0) {
      this.decodedLast = false;
      const work = others.find(({ id }) => id > this.turn) ?? (others[0] as Work);
      this.turn = work.id;
      if (this.stepOf(work)) this.remove(work);
    }
    return decoding.length + others.length > 0;
  }

  /** Frees a sequence at once, wherever it is. */
  abort(id: number): void {
    const at = this.waiting.findIndex((waiting) => waiting.id === id);
    if (at >= 0) this.waiting.splice(at, 1);
    const work = this.running.find((candidate) => candidate.id === id);
    if (work) this.remove(work);
  }

  /** Fails what waits; running work goes on. */
  rejectWaiting(error: unknown): void {
    for (const waiting of this.waiting.splice(0)) waiting.fail(error);
  }

  stats(): EngineStats {
    return {
      running: this.running.length,
      waiting: this.waiting.length,
      kvBytes: this.kvBytes,
      kvBudgetBytes: this.limits.kvBudgetBytes,
    };
  }

  private enqueue(waiting: Waiting): void {
    if (waiting.kvBytes > this.limits.kvBudgetBytes) {
      throw new ServerError(
        'context_length_exceeded',
        `this request needs ${waiting.kvBytes} bytes of key-value cache, more than the ${this.limits.kvBudgetBytes} of --kv-bytes; send a shorter prompt or a lower max_tokens`,
      );
    }
    this.waiting.push(waiting);
  }

  private admit(): void {
    for (;;) {
      const next = this.waiting[0];
      if (!next || this.running.length >= this.limits.maxRunning) return;
      if (this.kvBytes + next.kvBytes > this.limits.kvBudgetBytes) return;
      this.waiting.shift();
      try {
        this.running.push(next.start());
        this.kvBytes += next.kvBytes;
      } catch (error) {
        next.fail(error);
      }
    }
  }

  /** One token of each. An error of one sequence, while it tells, is its own; one of the forward pass is everybody's. */
  private decode(works: readonly Work[]): void {
    for (const batch of batchesOf(works)) {
      const { forward } = this.model;
      const sequences = batch.map(({ sequence }) => sequence as Sequence);
      let tokens: Int32Array | undefined;
      this.attempt(batch, () => {
        const rows = sequences.map((sequence) => sequence.next());
        tokens = forward.decode(
          rows,
          sequences.map((sequence) => sequence.draw()),
        );
      });
      if (tokens === undefined) continue;
      const taken = tokens;
      batch.forEach((work, row) => {
        const sequence = sequences[row] as Sequence;
        if (!this.attempt([work], () => sequence.take(row, taken[row] as number)) && sequence.done) this.remove(work);
      });
    }
  }

  /** True when `body` threw: then all of `works` have failed and are gone. */
  private attempt(works: readonly Work[], body: () => void): boolean {
    try {
      body();
      return false;
    } catch (error) {
      for (const work of works) {
        work.fail(error);
        this.remove(work);
      }
      return true;
    }
  }

  private stepOf(work: Work): boolean {
    try {
      return work.step();
    } catch (error) {
      work.fail(error);
      return true;
    }
  }

  private remove(work: Work): void {
    this.running.splice(this.running.indexOf(work), 1);
    this.kvBytes -= work.kvBytes;
    work.dispose();
  }
}

/** Those that share compacted weights side by side, HEAD_ROWS at most together. */
function batchesOf(works: readonly Work[]): Work[][] {
  const copies = new Map<unknown, Work[]>();
  for (const work of works) {
    const copy = Object.values(work.sequence?.next().task?.matrices ?? {})[0]?.packed;
    const sharing = copies.get(copy);
    if (sharing) sharing.push(work);
    else copies.set(copy, [work]);
  }
  const sorted = [...copies.values()].flat();
  return Array.from({ length: Math.ceil(sorted.length / HEAD_ROWS) }, (_, i) =>
    sorted.slice(i * HEAD_ROWS, (i + 1) * HEAD_ROWS),
  );
}

/** Where the GPU does not hold the dense matrices, a task has to bring all of them. */
function refuseIfDense({ info }: Model, task: TaskWeights | null): void {
  if (info.denseOnHost !== true || info.maskable.every(({ name }) => task?.matrices[name] !== undefined)) return;
  throw new ServerError(
    'unsupported',
    'expected a task that masks every linear layer: this server runs with --dense-weights host, and the GPU does not hold the dense ones; name another task',
  );
}

function promptIds(model: Model, request: GenerateRequest): Int32Array {
  const { vocabularySize, contextLength } = model.info;
  const ids = typeof request.prompt === 'string' ? encodePrompt(model, request.prompt, request) : request.prompt;
  const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabularySize);
  if (bad !== undefined) {
    const message = `expected token ids from 0 to ${vocabularySize - 1} in prompt but received ${bad}`;
    throw new ServerError('invalid_request', message, { param: 'prompt' });
  }
  if (ids.length === 0) {
    const message = 'expected a prompt of at least one token but received none; send text or token ids';
    throw new ServerError('invalid_request', message, { param: 'prompt' });
  }
  if (ids.length + request.maxTokens > contextLength) {
    throw new ServerError(
      'context_length_exceeded',
      `this model's context is ${contextLength} tokens, but the prompt has ${ids.length} and max_tokens asks for ${request.maxTokens}; shorten one of them`,
      { param: 'prompt' },
    );
  }
  return Int32Array.from(ids);
}

/** A token is at least one byte long, so a text longer than this can't fit, and need not be tokenised to say so. */
const LONGEST_TOKEN_CHARACTERS = 128;

function encodePrompt(model: Model, text: string, request: GenerateRequest): number[] {
  if (!model.tokenizer) {
    throw new ServerError('unsupported', 'this model directory has no tokenizer.json: send token ids as the prompt');
  }
  const limit = model.info.contextLength * LONGEST_TOKEN_CHARACTERS;
  if (text.length > limit) {
    throw new ServerError(
      'context_length_exceeded',
      `this model's context is ${model.info.contextLength} tokens, but the prompt has ${text.length} characters; send at most ${limit}`,
      { param: 'prompt' },
    );
  }
  return model.tokenizer.encode(text, request.addSpecialTokens);
}
