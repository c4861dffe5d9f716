/** One linear layer in onnxruntime: a Gemm over an fp32 weight of the model, packed when the session is made, a session a copy. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { modelProto, type OnnxGraph } from '../../../clients/cli/interchange/onnx/model-proto.js';
import { milliseconds } from './clock.js';
import type { Layers } from './engine.js';
import { COMPUTE_BOUND_TOKENS, type EngineSettings, LAYER_BYTES } from './protocol.js';
import { sessionOptions } from './session-options.js';

const DATA_FILE = 'layer.onnx_data';

export function openLayers({ threads, clock, scratch }: EngineSettings): Layers {
  let made = { rows: 0, cols: 0, sessions: [] as InferenceSession[] };
  return {
    name: 'onnxruntime, fp32',
    measure: async ({ rows, cols, tokens }) => {
      if (made.rows !== rows || made.cols !== cols) {
        for (const session of made.sessions) await session.release();
        made = { rows, cols, sessions: await open(scratch as string, rows, cols, threads) };
      }
      const x = new Tensor(
        'float32',
        Float32Array.from({ length: tokens * cols }, (_, i) => ((i * 37) % 101) / 101),
        [tokens, cols],
      );
      const used = made.sessions.slice(0, tokens >= COMPUTE_BOUND_TOKENS ? 1 : made.sessions.length);
      await used[0]?.run({ x });
      const started = milliseconds(clock);
      for (const session of used) await session.run({ x });
      return (milliseconds(clock) - started) / used.length;
    },
  };
}

async function open(scratch: string, rows: number, cols: number, threads: number): Promise<InferenceSession[]> {
  mkdirSync(scratch, { recursive: true });
  const bytes = rows * cols * 4;
  const path = join(scratch, 'layer.onnx');
  const weights = Float32Array.from({ length: rows * cols }, (_, i) => (Math.imul(i, 40503) & 1023) / 2 ** 16);
  writeFileSync(join(scratch, DATA_FILE), new Uint8Array(weights.buffer));
  const external = [{ name: 'w', shape: [rows, cols], offset: 0, length: bytes }];
  const notes = { producer: 'maskserve', version: '', metadata: {} };
  writeFileSync(path, modelProto(graph(rows, cols), external, DATA_FILE, notes));
  const sessions: InferenceSession[] = [];
  for (let copy = 0; copy < Math.ceil(LAYER_BYTES / bytes); copy++)
    sessions.push(await InferenceSession.create(path, sessionOptions(threads)));
  return sessions;
}

/** y (T, rows) ← x (T, cols) · wᵀ */
function graph(rows: number, cols: number): OnnxGraph {
  return {
    name: 'layer',
    inputs: [{ name: 'x', type: 'float', shape: ['tokens', cols] }],
    outputs: [{ name: 'y', type: 'float', shape: ['tokens', rows] }],
    constants: [],
    nodes: [{ type: 'Gemm', name: 'gemm', inputs: ['x', 'w'], outputs: ['y'], attributes: { transB: { int: 1 } } }],
  };
}
