/** The client: completions and chats with a task of the caller's choice, and everything else the server offers. Runs in Node and in browsers, on `fetch` alone. */
import { answered, Connection, readJson, type ConnectionOptions } from './connection.js';
import { Masks } from './masks.js';
import { readEvents } from './stream.js';
import { Training } from './training.js';
import type {
  Answered,
  CallOptions,
  Chat,
  ChatChunk,
  ChatRequest,
  Completion,
  CompletionChunk,
  CompletionRequest,
  EvaluateRequest,
  Evaluation,
  Model,
  TaskOption,
} from './types.js';

/**
 * ```ts
 * const client = new MaskServe({ baseUrl: 'http://127.0.0.1:8080', task: 'french' });
 * for await (const chunk of client.stream({ prompt: 'La France est' })) process.stdout.write(chunk.choices[0]?.text ?? '');
 * ```
 * Every method throws MaskServeError, or the signal's reason when it was aborted.
 */
export class MaskServe {
  readonly masks: Masks;
  readonly training: Training;
  private readonly connection: Connection;

  constructor(options: ConnectionOptions) {
    this.connection = new Connection(options);
    this.masks = new Masks(this.connection);
    this.training = new Training(this.connection);
  }

  /** One answer, whole. */
  complete(request: CompletionRequest, options: CallOptions = {}): Promise<Completion & Answered> {
    return this.post('/v1/completions', request, options);
  }

  /** The same, piece by piece. Starts when the loop does; leaving the loop, or aborting, ends it on the server too. */
  stream(request: CompletionRequest, options: CallOptions = {}): AsyncIterableIterator<CompletionChunk> {
    return this.events('/v1/completions', request, options);
  }

  chat(request: ChatRequest, options: CallOptions = {}): Promise<Chat & Answered> {
    return this.post('/v1/chat/completions', request, options);
  }

  streamChat(request: ChatRequest, options: CallOptions = {}): AsyncIterableIterator<ChatChunk> {
    return this.events('/v1/chat/completions', request, options);
  }

  /** The base and every task that the key may use. */
  async models(options: CallOptions = {}): Promise<readonly Model[]> {
    const { data } = await this.connection.json<{ data: Model[] }>({ method: 'GET', path: '/v1/models', ...options });
    return data;
  }

  /** Perplexity of documents under a task. */
  evaluate(request: EvaluateRequest, options: CallOptions = {}): Promise<Evaluation & Answered> {
    return this.post('/v1/eval', request, options);
  }

  async tokenize(text: string, options: CallOptions & { readonly addSpecialTokens?: boolean } = {}): Promise<number[]> {
    const { addSpecialTokens = true, signal } = options;
    const json = { prompt: text, add_special_tokens: addSpecialTokens };
    const { tokens } = await this.connection.json<{ tokens: number[] }>({
      method: 'POST',
      path: '/tokenize',
      json,
      signal,
    });
    return tokens;
  }

  async detokenize(ids: readonly number[], { signal }: CallOptions = {}): Promise<string> {
    const call = { method: 'POST', path: '/detokenize', json: { tokens: ids }, signal } as const;
    return (await this.connection.json<{ prompt: string }>(call)).prompt;
  }

  private async post<T>(
    path: string,
    { task, ...json }: TaskOption & object,
    { signal }: CallOptions,
  ): Promise<T & Answered> {
    const response = await this.connection.send({ method: 'POST', path, task, json, signal });
    return { ...(await readJson<T>(response, signal)), ...answered(response) };
  }

  private async *events<T>(
    path: string,
    { task, ...json }: TaskOption & object,
    { signal }: CallOptions,
  ): AsyncGenerator<T, void, undefined> {
    const call = { method: 'POST', path, task, json: { ...json, stream: true }, signal } as const;
    yield* readEvents<T>(await this.connection.send(call), signal);
  }
}
