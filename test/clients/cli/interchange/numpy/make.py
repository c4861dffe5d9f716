"""Writes mask_compressed.npz beside this file: masks for test/fixtures/architectures/llama-bias in the way MaskLLM publishes its own.

A yardstick: nothing in the product or its tests runs it; npz-import.test.ts reads what it wrote.

    python3.11 -m venv venv && . venv/bin/activate && pip install numpy==2.4.6 && python test/clients/cli/interchange/numpy/make.py

Group g of matrix number m (q, k, v, o, gate, up, down of layer 0, then of layer 1) keeps pattern (7 g + 3 m + g // 5) mod 6 of
1100 1010 1001 0110 0101 0011.
"""
from pathlib import Path
import numpy as np

PATTERNS = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], dtype=bool)
SHAPES = {'self_attn.q_proj': (32, 32), 'self_attn.k_proj': (16, 32), 'self_attn.v_proj': (16, 32), 'self_attn.o_proj': (32, 32),
          'mlp.gate_proj': (64, 32), 'mlp.up_proj': (64, 32), 'mlp.down_proj': (32, 64)}

masks = {}
for layer in range(2):
    for part, shape in SHAPES.items():
        g = np.arange(shape[0] * shape[1] // 4)
        mask = PATTERNS[(7 * g + 3 * len(masks) + g // 5) % 6].reshape(shape)
        masks[f'model.layers.{layer}.{part}.weight.mask'] = np.packbits(mask)
np.savez_compressed(Path(__file__).with_name('mask_compressed.npz'), **masks)
