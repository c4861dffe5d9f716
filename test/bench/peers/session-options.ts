/** onnxruntime as a user sets it up for speed: all optimisations of the graph, and no more threads than asked for. */
import type { InferenceSession } from 'onnxruntime-node';

export function sessionOptions(threads: number): InferenceSession.SessionOptions {
  return {
    executionProviders: ['cpu'],
    graphOptimizationLevel: 'all',
    executionMode: 'sequential',
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
  };
}
