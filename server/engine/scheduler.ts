/**
 * Which work runs next. One step of one piece of work at a time (a prefill chunk, a token, a window of an evaluation), round robin, so that a long prompt delays
 * other sequences' tokens by one chunk at most. Sequences start in order of arrival when their cache fits the budget.
 */
import { ServerError } from '../errors.js';
import { Evaluation } from './evaluate.js';
import type { Model } from './model.js';
import { Sequence } from './sequence.js';
import type { EngineStats, EvaluateRequest, EvaluateResult, GenerateEvent, GenerateRequest } from './types.js';

/** What came of a piece of work, told to whoever asked for it. */
export interface Outcome<T> {
  readonly emit: (value: T) => void;
  readonly fail: (error: unknown) => void;
}

interface Work {
  readonly id: number;
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
  private turn = 0;

  constructor(
    private readonly model: Model,
    private readonly limits: { readonly kvBudgetBytes: number; readonly maxRunning: number },
  ) {}

  /** Checks a request against the model and the budget, then queues it. Throws ServerError. */
  generate(id: number, request: GenerateRequest, outcome: Outcome<GenerateEvent>): void {
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
        return { id, kvBytes, step, fail: outcome.fail, dispose: () => sequence.dispose() };
      },
    });
  }

  evaluate(id: number, request: EvaluateRequest, outcome: Outcome<EvaluateResult>): void {
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
    if (this.running.length === 0) return false;
    this.turn %= this.running.length;
    const work = this.running[this.turn] as Work;
    if (this.stepOf(work)) this.remove(work);
    else this.turn++;
    return true;
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

  private stepOf(work: Work): boolean {
    try {
      return work.step();
    } catch (error) {
      work.fail(error);
      return true;
    }
  }

  private remove(work: Work): void {
    const at = this.running.indexOf(work);
    this.running.splice(at, 1);
    if (at < this.turn) this.turn--;
    this.kvBytes -= work.kvBytes;
    work.dispose();
  }
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
