"""MaskLLM's training step in PyTorch on a GPU, for `npm run bench -- gpu`: prints tokens a second of the shape in its argument (gpu-training.ts) as JSON.

A LLaMA of random bf16 weights, frozen; six logits a group of four in fp32 (arXiv 2409.17481, Eq. 6, 7): Gumbel-softmax over the patterns, the soft mask times the weight in bf16, F.linear,
scaled_dot_product_attention, cross-entropy, fused AdamW on the logits. Soft masks are made again in the backward pass (checkpoint), as maskserve does.
"""
import itertools, json, math, sys, time
try:
    import torch
except ImportError as error:
    sys.exit(f'this Python has no torch: {error}')
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

settings = json.loads(sys.argv[1])
device = sys.argv[2] if len(sys.argv) > 2 else 'cuda'
if device == 'cuda' and not torch.cuda.is_available(): sys.exit(f'torch {torch.__version__} finds no GPU')
shape, batch, seq = settings['model'], settings['batch'], settings['seq']
D, H, KV, FFN, V = (shape[name] for name in ('hidden', 'heads', 'kvHeads', 'ffn', 'vocab'))
HD = D // H
KAPPA, TAU, EPSILON = 100.0, 4.0, 1e-5
PATTERNS = torch.tensor([[float(i in kept) for i in range(4)] for kept in itertools.combinations(range(4), 2)], device=device)


def weight(rows, cols):
    return (torch.randn(rows, cols, device=device) * 0.02).bfloat16()


class Masked:
    """A frozen matrix and the logits of its groups."""

    def __init__(self, rows, cols):
        self.weight = weight(rows, cols)
        self.logits = (torch.randn(rows * cols // 4, 6, device=device) * 0.01).requires_grad_()

    def product(self, x, logits):
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp_(1e-7, 1 - 1e-7)))
        soft = torch.softmax((KAPPA * logits + noise) / TAU, -1) @ PATTERNS
        return F.linear(x, self.weight * soft.view_as(self.weight).bfloat16())

    def __call__(self, x):
        return checkpoint(self.product, x, self.logits, use_reentrant=False)


class Layer:
    def __init__(self):
        self.q, self.k, self.v, self.o = Masked(H * HD, D), Masked(KV * HD, D), Masked(KV * HD, D), Masked(D, H * HD)
        self.gate, self.up, self.down = Masked(FFN, D), Masked(FFN, D), Masked(D, FFN)

    def matrices(self):
        return [self.q, self.k, self.v, self.o, self.gate, self.up, self.down]

    def __call__(self, x, cos, sin):
        h = F.rms_norm(x, (D,), eps=EPSILON)
        q, k, v = (m(h).view(batch, seq, -1, HD).transpose(1, 2) for m in (self.q, self.k, self.v))
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=H != KV)
        x = x + self.o(y.transpose(1, 2).reshape(batch, seq, H * HD))
        h = F.rms_norm(x, (D,), eps=EPSILON)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def rotated(x, cos, sin):
    return x * cos + torch.cat((-x[..., HD // 2:], x[..., :HD // 2]), -1) * sin


def main():
    torch.manual_seed(0)
    layers = [Layer() for _ in range(shape['layers'])]
    embedding, head = weight(V, D), weight(V, D)
    angles = torch.outer(torch.arange(seq).float(), 1 / 10000 ** (torch.arange(0, HD, 2) / HD)).repeat(1, 2).to(device)
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    logits = [m.logits for layer in layers for m in layer.matrices()]
    optimizer = torch.optim.AdamW(logits, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=device == 'cuda')

    def step():
        ids = torch.randint(V, (batch, seq + 1), device=device)
        x = F.embedding(ids[:, :-1], embedding)
        for layer in layers: x = layer(x, cos, sin)
        x = F.rms_norm(x, (D,), eps=EPSILON)
        # The rows' logits in parts, made again for their gradients, as maskserve does.
        part = lambda x, y: F.cross_entropy(F.linear(x, head).float(), y, reduction='sum')
        rows, targets = x.reshape(-1, D).split(2048), ids[:, 1:].reshape(-1).split(2048)
        loss = sum(checkpoint(part, *pair, use_reentrant=False) for pair in zip(rows, targets)) / (batch * seq)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(logits, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def timed(count):
        started = time.perf_counter()
        for _ in range(count): loss = step()
        if device == 'cuda': torch.cuda.synchronize()
        return time.perf_counter() - started, loss

    timed(settings['warmup'])
    seconds, loss = timed(settings['timed'])
    if not math.isfinite(loss): sys.exit(f'the loss is {loss}')
    name = torch.cuda.get_device_name() if device == 'cuda' else device
    print(json.dumps(dict(version=torch.__version__, device=name, tokensPerSecond=settings['timed'] * batch * seq / seconds)))


try:
    main()
except RuntimeError as error:
    sys.exit(str(error).split('\n')[0])
