"""PyTorch on the CPU as an engine of `npm run bench -- peers`: answers protocol.ts's requests from standard input. Needs torch and safetensors.

Plain torch in bf16, written for speed: weights packed once for oneDNN, as torch.compile's freezing packs them (2 to 3 times as fast at one token as
F.linear on a 4096×4096 layer); q·k·v and gate·up one product each, q and k rotated together, residuals added by the products; keys and values in buffers made once;
attention is scaled_dot_product_attention.
"""
import base64, json, sys, time
from pathlib import Path
import torch
import torch.nn.functional as F

settings = json.loads(sys.argv[1])
torch.set_num_threads(settings['threads'])
torch.set_grad_enabled(False)
clock = time.process_time if settings['clock'] == 'cpu' else time.perf_counter
WARM_UP_TOKENS = 8
LAYER_BYTES, COMPUTE_BOUND_TOKENS = 256 << 20, 64


def packed(weight):
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1)


def linear(x, weight):
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, 'none', [], '')


def added(residual, x, weight):
    """residual + x · Wᵀ"""
    return torch.ops.mkldnn._linear_pointwise(x, residual, weight, None, 'add')


class Llama:
    def __init__(self, directory, sequences, positions):
        from safetensors import safe_open
        self.config = c = json.loads((Path(directory) / 'config.json').read_text())
        self.heads, self.kv = c['num_attention_heads'], c.get('num_key_value_heads') or c['num_attention_heads']
        self.hd, self.eps = c.get('head_dim') or c['hidden_size'] // self.heads, c['rms_norm_eps']
        with safe_open(Path(directory) / 'model.safetensors', framework='pt') as f:
            get = lambda name: f.get_tensor(name + '.weight').clone()
            self.embedding, self.norm = get('model.embed_tokens'), get('model.norm')
            self.head = packed(self.embedding if c.get('tie_word_embeddings') else get('lm_head'))
            self.layers = [self.layer(get, f'model.layers.{i}.') for i in range(c['num_hidden_layers'])]
        frequencies = 1 / c.get('rope_theta', 10000) ** (torch.arange(0, self.hd, 2) / self.hd)
        angles = torch.outer(torch.arange(positions).float(), frequencies).repeat(1, 2)
        self.cos, self.sin = angles.cos().bfloat16(), angles.sin().bfloat16()
        shape = (len(self.layers), sequences, self.kv, positions, self.hd)
        self.keys, self.values = torch.zeros(shape, dtype=torch.bfloat16), torch.zeros(shape, dtype=torch.bfloat16)

    def layer(self, get, prefix):
        join = lambda *names: packed(torch.cat([get(prefix + name) for name in names]))
        return dict(
            norm1=get(prefix + 'input_layernorm'), qkv=join('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'), o=join('self_attn.o_proj'),
            norm2=get(prefix + 'post_attention_layernorm'), gate_up=join('mlp.gate_proj', 'mlp.up_proj'), down=join('mlp.down_proj'))

    def rotated(self, x, start):
        """x (B, heads, T, hd)"""
        end, half = start + x.shape[2], self.hd // 2
        return x * self.cos[start:end] + torch.cat((-x[..., half:], x[..., :half]), -1) * self.sin[start:end]

    def attention(self, residual, x, index, start):
        b, t, _ = x.shape
        layer, end, heads, kv, hd = self.layers[index], start + t, self.heads, self.kv, self.hd
        qk, v = linear(x, layer['qkv']).view(b, t, heads + 2 * kv, hd).transpose(1, 2).split((heads + kv, kv), 1)
        q, k = self.rotated(qk, start).split((heads, kv), 1)
        keys, values = self.keys[index, :b, :, :end], self.values[index, :b, :, :end]
        keys[:, :, start:] = k
        values[:, :, start:] = v
        if t == 1:  # the query heads of a group are rows over the same keys: nothing is repeated
            y = F.scaled_dot_product_attention(q.reshape(b, kv, heads // kv, hd), keys, values).reshape(b, heads, 1, hd)
        else:
            if start: raise ValueError('a prompt is read into an empty sequence')
            y = F.scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=heads != kv)
        return added(residual, y.transpose(1, 2).reshape(b, t, heads * hd), layer['o'])

    def feed(self, ids, start):
        """ids (B, T) at position `start` of the first B sequences → logits (B, V) of the last of each."""
        x = F.embedding(ids, self.embedding)
        for i, layer in enumerate(self.layers):
            x = self.attention(x, F.rms_norm(x, x.shape[-1:], layer['norm1'], self.eps), i, start)
            gate, up = linear(F.rms_norm(x, x.shape[-1:], layer['norm2'], self.eps), layer['gate_up']).chunk(2, -1)
            x = added(x, F.silu(gate) * up, layer['down'])
        return linear(F.rms_norm(x[:, -1], x.shape[-1:], self.norm, self.eps), self.head)


def tokens(sequences, first, count):
    """protocol.ts's tokenAt"""
    positions = torch.arange(first, first + count) * 7919 + 13
    return (positions + torch.arange(sequences)[:, None] * 104729) % settings['vocab']


def run(model, sequences, depth, steps):
    model.feed(tokens(1, 0, WARM_UP_TOKENS), 0)
    prompt, after = tokens(sequences, 0, depth), [tokens(sequences, depth + step, 1) for step in range(steps)]
    started = clock()
    model.feed(prompt, 0)
    read = clock()
    for step, ids in enumerate(after): model.feed(ids, depth + step)
    return dict(prefillMs=(read - started) * 1e3, decodeMs=(clock() - read) * 1e3)


def logits(model, sequences, depth, steps):
    found = [model.feed(tokens(sequences, 0, depth), 0)]
    found += [model.feed(tokens(sequences, depth + step, 1), depth + step) for step in range(steps)]
    return dict(logits=[base64.b64encode(row[-1].float().numpy().tobytes()).decode() for row in found])


class Layers:
    shape, weights = None, []

    def measure(self, rows, cols, tokens):
        if self.shape != (rows, cols):
            copies = max(1, -(-LAYER_BYTES // (rows * cols * 2)))
            self.shape, self.weights = (rows, cols), [packed(torch.randn(rows, cols).mul_(0.02).bfloat16()) for _ in range(copies)]
        x = torch.randn(tokens, cols).bfloat16()
        linear(x, self.weights[0])
        used = self.weights[:1] if tokens >= COMPUTE_BOUND_TOKENS else self.weights
        started = clock()
        for weight in used: linear(x, weight)
        return dict(ms=(clock() - started) * 1e3 / len(used))


def answer(target, request):
    op = request.pop('op')
    if op == 'layer': return target.measure(**request)
    return (run if op == 'pass' else logits)(target, **request)


def main():
    target = Llama(settings['model'], settings['sequences'], settings['positions']) if 'model' in settings else Layers()
    print(json.dumps(dict(engine=f'PyTorch {torch.__version__}, bf16, {torch.get_num_threads()} threads')), flush=True)
    for line in sys.stdin:
        try:
            result = answer(target, json.loads(line))
        except Exception as error:
            result = dict(error=f'{type(error).__name__}: {error}')
        print(json.dumps(result), flush=True)


main()
