"""What `maskctl export` writes, read by the programs it is for: numpy, safetensors, transformers; and what numpy writes, read by `maskctl import`.

A yardstick: nothing in the product or its tests runs it.

    python3.11 -m venv venv && . venv/bin/activate
    pip install "torch==2.13.0" "transformers==5.18.0" safetensors numpy      # and onnx, to have the ONNX model checked too
    npm run build && python test/model/interchange_check.py [--model models/tiny] [--task general] [--maskctl dist/clients/cli/main.js]

Prints a line for each check and exits with 1 at the first that fails.
  npz       zipfile finds every checksum right; numpy.load gives uint8 arrays whose bits, in the shapes of the checkpoint, keep two of every four
  dense     every kept weight has the bits of the original and every other tensor is the original's; transformers computes the same logits
            as with the original's weights multiplied by the mask
  bitmask   compressed-tensors' decompression, written anew from its definition, gives the dense checkpoint bit for bit
  import    masks saved by numpy.savez_compressed as MaskLLM does, and the pruned checkpoint saved by transformers, both become the masks
            of the task again
  onnx      onnx.checker accepts the model (where the package is installed); test/clients/cli/interchange/onnx.test.ts computes with it
"""
import argparse, json, subprocess, sys, tempfile, zipfile
from pathlib import Path
import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM


def maskctl(options, *args):
    done = subprocess.run(['node', options.maskctl, *map(str, args), '--model', options.model, '--json'], capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr)
    return json.loads(done.stdout)


def check(name, holds):
    print(f'{"ok" if holds else "FAILED"}  {name}')
    if not holds: sys.exit(1)


def tensors(directory):
    found = {}
    for file in sorted(Path(directory).glob('*.safetensors')):
        with safe_open(file, framework='pt') as f: found.update({name: f.get_tensor(name) for name in f.keys()})
    return found


def same_bits(a, b):
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(whole), b.view(whole))


def read_npz(path, original):
    check('npz: every checksum holds', zipfile.ZipFile(path).testzip() is None)
    masks = {}
    with np.load(path) as archive:
        for key in archive.files:
            name, packed = key.replace('.mask', ''), archive[key]
            assert packed.dtype == np.uint8 and packed.ndim == 1 and packed.size * 8 == original[name].numel(), key
            masks[name] = torch.from_numpy(np.unpackbits(packed)).bool().view(original[name].shape)
    check(f'npz: {len(masks)} masks keep two of every four weights', all((m.view(-1, 4).sum(1) == 2).all() for m in masks.values()))
    return masks


@torch.no_grad()
def check_dense(directory, original, masks, options):
    written = tensors(directory)
    expected = {n: torch.where(masks[n], w, torch.zeros_like(w)) if n in masks else w for n, w in original.items()}
    check('dense: kept weights and all other tensors are the original\'s, bit for bit, pruned ones +0',
          written.keys() == expected.keys() and all(same_bits(written[n], expected[n]) for n in written))
    load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    pruned, reference = load(directory), load(options.model)
    for name, parameter in reference.named_parameters():
        if name in masks: parameter.mul_(masks[name])
    ids = torch.arange(64).view(1, -1) % reference.config.vocab_size
    difference = (pruned(ids).logits - reference(ids).logits).abs().max().item()
    check(f'dense: transformers computes the logits of W * mask (largest difference {difference:.1e})', difference < 1e-5)
    return written, pruned


def check_bitmask(directory, dense):
    stored = tensors(directory)
    for name in [n for n in stored if n.endswith('.bitmask')]:
        prefix = name[:-len('.bitmask')]
        values, bits = stored.pop(f'{prefix}.compressed'), stored.pop(name)
        rows, cols = stored.pop(f'{prefix}.shape').flatten().tolist()
        keep = torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1, count=cols, bitorder='little')).bool()
        restored = torch.zeros(rows, cols, dtype=values.dtype)
        restored[keep] = values.flatten()
        stored[f'{prefix}.weight'] = restored
    check('bitmask: decompresses to the dense checkpoint', stored.keys() == dense.keys() and all(same_bits(stored[n], dense[n]) for n in dense))
    sparsity = json.loads((Path(directory) / 'config.json').read_text())['quantization_config']['sparsity_config']
    check('bitmask: config.json says so', sparsity['format'] == 'sparse-24-bitmask' and sparsity['sparsity_structure'] == '2:4')


def check_imports(work, masks, pruned, content, options):
    np.savez_compressed(work / 'numpy.npz', **{f'{name}.mask': np.packbits(mask.numpy()) for name, mask in masks.items()})
    check('import: of what numpy saved', maskctl(options, 'import', work / 'numpy.npz', '--out', work / 'a.mask')['contentDigest'] == content)
    pruned.to(torch.bfloat16).save_pretrained(work / 'saved')
    check('import: of what transformers saved', maskctl(options, 'import', work / 'saved', '--out', work / 'b.mask')['contentDigest'] == content)


def check_onnx(directory):
    try: import onnx
    except ImportError: return print('--  onnx: not installed, not checked')
    onnx.checker.check_model(str(Path(directory) / 'model.onnx'), full_check=True)
    check('onnx: the checker accepts the model', True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--model', default='models/tiny')
    parser.add_argument('--task', default='general')
    parser.add_argument('--maskctl', default='dist/clients/cli/main.js')
    options = parser.parse_args()
    original = tensors(options.model)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        export = lambda form, out, *args: maskctl(options, 'export', '--format', form, '--task', options.task, '--out', work / out, *args)
        content = export('npz', 'mask.npz')['contentDigest']
        masks = read_npz(work / 'mask.npz', original)
        export('dense', 'dense')
        dense, pruned = check_dense(work / 'dense', original, masks, options)
        export('bitmask', 'bitmask')
        check_bitmask(work / 'bitmask', dense)
        check_imports(work, masks, pruned, content, options)
        for args in [(), ('--no-cache', '--logits', 'last')]:
            export('onnx', f'onnx{len(args)}', *args)
            check_onnx(work / f'onnx{len(args)}')


if __name__ == '__main__': main()
