/** Where the peers are, or why one is absent. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** This folder in the sources: its package.json is not part of the project's, and Python is not compiled. */
const SOURCES = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', '..', 'test', 'bench', 'peers');

export const LLAMA_BINARIES = join(SOURCES, 'node_modules', '@node-llama-cpp', 'linux-x64', 'bins', 'linux-x64');
export const TORCH_ENGINE = join(SOURCES, 'torch_engine.py');

export function whyNoLlamaCpp(): string | undefined {
  if (existsSync(LLAMA_BINARIES)) return undefined;
  if (process.platform !== 'linux' || process.arch !== 'x64')
    return `it is compared on linux-x64 only, and this is ${process.platform}-${process.arch}`;
  return 'it is not installed: npm ci --prefix test/bench/peers';
}

export function whyNoOnnxRuntime(): string | undefined {
  try {
    createRequire(import.meta.url).resolve('onnxruntime-node');
    return undefined;
  } catch {
    return 'it is not installed: npm ci without --omit=dev';
  }
}

export function whyNoTorch(python: string | undefined): string | undefined {
  return python ? undefined : 'it needs a Python with torch and safetensors: --yardstick PYTHON or MASKSERVE_YARDSTICK';
}
