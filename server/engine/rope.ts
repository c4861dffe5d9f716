/** Rotary position embedding tables (RoFormer, arXiv 2104.09864) with LLaMA 3's scaling, as transformers' modeling_rope_utils computes them. */
import type { RopeConfig } from './model-config.js';

/** Inverse frequencies (headDim/2), in fp64, rounded to fp32 only in the tables. */
export function inverseFrequencies(rope: RopeConfig, headDim: number): Float64Array {
  const frequencies = new Float64Array(headDim / 2);
  for (let i = 0; i < frequencies.length; i++) {
    // transformers holds inverse frequencies in fp32; the rounding is part of the model at long positions
    frequencies[i] = Math.fround(scaled(rope, Math.fround(1 / rope.theta ** ((2 * i) / headDim))));
  }
  return frequencies;
}

/** cos and sin, each (positions, headDim/2) fp32. */
export function ropeTables(
  rope: RopeConfig,
  headDim: number,
  positions: number,
): { cos: Float32Array; sin: Float32Array } {
  const frequencies = inverseFrequencies(rope, headDim);
  const half = frequencies.length;
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  for (let p = 0; p < positions; p++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(p * (frequencies[i] as number));
      cos[p * half + i] = Math.cos(angle);
      sin[p * half + i] = Math.sin(angle);
    }
  }
  return { cos, sin };
}

function scaled(rope: RopeConfig, frequency: number): number {
  const { scaling } = rope;
  if (scaling.kind === 'none') return frequency;
  if (scaling.kind === 'linear') return frequency / scaling.factor;
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength < scaling.originalContext / scaling.highFreqFactor) return frequency;
  if (wavelength > scaling.originalContext / scaling.lowFreqFactor) return frequency / scaling.factor;
  const smooth =
    (scaling.originalContext / wavelength - scaling.lowFreqFactor) / (scaling.highFreqFactor - scaling.lowFreqFactor);
  return ((1 - smooth) * frequency) / scaling.factor + smooth * frequency;
}
