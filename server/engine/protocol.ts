/** Messages between the HTTP thread (engine-client.ts) and the engine thread (engine-worker.ts). Errors travel as their code and sentence. */
import { ServerError, type ErrorCode } from '../errors.js';
import type { BackendName } from '../../kernels/backend-types.js';
import type { KvType } from '../../kernels/handle.js';
import type { ChatMessage } from './chat-template.js';
import type {
  DeviceMemory,
  EngineStats,
  EvaluateRequest,
  EvaluateResult,
  GenerateEvent,
  GenerateRequest,
  ModelInfo,
} from './types.js';

export interface EngineOptions {
  readonly modelDirectory: string;
  /** 0: all cores. */
  readonly threads: number;
  readonly maxContext: number | undefined;
  /** Where the model runs. */
  readonly backend: BackendName;
  /** On a GPU: its dense matrices stay in host memory. */
  readonly denseOnHost: boolean;
  /** Budget of all key-value caches together; undefined, on a GPU: a share of what the weights leave free. */
  readonly kvBytes: number | undefined;
  readonly kvType: KvType;
  /** Sequences that take turns. */
  readonly maxRunning: number;
  /** Whether choices between kernels are measured. */
  readonly autotune: boolean;
}

export type ToEngine =
  | { readonly type: 'generate'; readonly id: number; readonly request: GenerateRequest }
  | { readonly type: 'evaluate'; readonly id: number; readonly request: EvaluateRequest }
  | { readonly type: 'tokenize'; readonly id: number; readonly text: string; readonly addSpecialTokens: boolean }
  | { readonly type: 'detokenize'; readonly id: number; readonly ids: readonly number[] }
  | { readonly type: 'chat'; readonly id: number; readonly messages: readonly ChatMessage[] }
  | { readonly type: 'abort'; readonly id: number }
  | { readonly type: 'drain' };

export type FromEngine =
  | {
      readonly type: 'ready';
      readonly model: ModelInfo;
      readonly device: DeviceMemory | null;
      readonly kvBytes: number;
    }
  | { readonly type: 'event'; readonly id: number; readonly event: GenerateEvent }
  | { readonly type: 'result'; readonly id: number; readonly value: EvaluateResult | readonly number[] | string }
  | { readonly type: 'failed'; readonly id: number; readonly error: WireError }
  | { readonly type: 'stats'; readonly stats: EngineStats };

export interface WireError {
  readonly code: ErrorCode | undefined;
  readonly message: string;
  readonly param: string | undefined;
}

export function toWire(error: unknown): WireError {
  if (error instanceof ServerError) return { code: error.code, message: error.message, param: error.options.param };
  return { code: undefined, message: error instanceof Error ? error.message : String(error), param: undefined };
}

export function fromWire({ code, message, param }: WireError): Error {
  return new ServerError(code ?? 'internal_error', message, param === undefined ? {} : { param });
}
