/** Who takes part on one model, and the files each needs: made here, from the same weights. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readModelConfig } from '../../../server/engine/model-config.js';
import { writeGgufModel } from './gguf-model.js';
import { whyNoLlamaCpp, whyNoOnnxRuntime, whyNoTorch } from './installed.js';
import type { EngineKind, EngineSettings } from './protocol.js';

export interface Contender {
  /** In tables. */
  readonly label: string;
  /** How far its logits may be from fp32's: `distance` in agreement.ts. */
  readonly tolerance: number;
  /** Why it takes no part; its `settings` are then of no use. */
  readonly absent?: string;
  readonly settings: Omit<EngineSettings, 'threads' | 'clock'>;
}

export interface ContenderOptions {
  /** Hugging Face directory, bf16. */
  readonly model: string;
  /** Is filled. */
  readonly scratch: string;
  readonly sequences: number;
  readonly positions: number;
  readonly python: string | undefined;
  /** GGUF files of the same model that are run beside the bf16 one, as they are. */
  readonly ggufs: readonly { readonly label: string; readonly file: string }[];
  /** Q8_0 too: for a model that somebody would quantise. */
  readonly quantized: boolean;
}

export const DENSE = 'maskserve dense';
export const MASKED = 'maskserve 2:4';
export const ONNX = 'onnxruntime fp32';

/** Another mask of SmolLM2 is 6 away. bf16 keeps 8 bits of an activation, and of the sum of all layers too where that is kept in it (PyTorch; SmolLM2: 0.052); Q8_0 and Q4_1 quantise 32 activations together to 8 bits, which outliers spoil (SmolLM2's: 0.18). */
const TOLERANCE = { bf16: 0.05, bf16Stream: 0.1, q8: 0.35, q4: 0.35, fp32: 0.002 };

const MASKCTL = fileURLToPath(new URL('../../../clients/cli/main.js', import.meta.url));

export function contenders(options: ContenderOptions): Contender[] {
  const { model, scratch, python, ggufs, quantized } = options;
  const make = makerOf(options);
  const noLlama = whyNoLlamaCpp();
  const gguf = (type: 'bf16' | 'q8_0'): string => {
    const file = join(scratch, `${type}.gguf`);
    if (noLlama === undefined) writeGgufModel(file, model, type);
    return file;
  };
  return [
    make(DENSE, 'maskserve', model, TOLERANCE.bf16),
    make(MASKED, 'maskserve', model, TOLERANCE.bf16, undefined, true),
    make('llama.cpp BF16', 'llama.cpp', gguf('bf16'), TOLERANCE.bf16, noLlama),
    ...(quantized ? [make('llama.cpp Q8_0', 'llama.cpp', gguf('q8_0'), TOLERANCE.q8, noLlama)] : []),
    ...ggufs.map(({ label, file }) => make(label, 'llama.cpp', file, TOLERANCE.q4, noLlama)),
    make(ONNX, 'onnxruntime', join(scratch, 'onnx'), TOLERANCE.fp32, whyNoOnnxRuntime() ?? exported(model, scratch)),
    make('PyTorch bf16', 'torch', model, TOLERANCE.bf16Stream, whyNoTorch(python)),
  ];
}

type Make = (
  label: string,
  kind: EngineKind,
  model: string,
  tolerance: number,
  absent?: string,
  masked?: boolean,
) => Contender;

function makerOf({ model, sequences, positions }: ContenderOptions): Make {
  const { vocab, layers, kvHeads, headDim } = readModelConfig(model);
  return (label, kind, file, tolerance, absent, masked = false) => ({
    label,
    tolerance,
    ...(absent === undefined ? {} : { absent }),
    settings: { kind, model: file, masked, sequences, positions, vocab, layers, kvHeads, headDim },
  });
}

/** Why there is no ONNX model. `mask`: of the container. */
export function exported(model: string, scratch: string, name = 'onnx', mask?: string): string | undefined {
  const masked = mask === undefined ? [] : ['--mask', mask];
  const args = ['export', '--format', 'onnx', '--logits', 'last', '--model', model, '--out', join(scratch, name)];
  const { status, stderr } = spawnSync(process.execPath, [MASKCTL, ...args, ...masked], { encoding: 'utf8' });
  return status === 0 ? undefined : `maskctl export failed: ${stderr.trim().split('\n').at(-1)}`;
}
