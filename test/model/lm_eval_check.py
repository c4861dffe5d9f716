"""Scores text through a running server with lm-evaluation-harness's own `local-completions` client, unmodified.

    python3.11 -m venv venv && . venv/bin/activate
    pip install "torch==2.13.0" transformers tokenizers numpy jinja2 datasets aiohttp tenacity tqdm requests
    pip install --no-deps lm_eval
    npm start -- --port 8080 &
    python test/model/lm_eval_check.py http://127.0.0.1:8080 --task french --tokenizer models/tiny \\
        --data FILE.jsonl --windows 32 --expect <(maskctl eval --task french --data FILE.jsonl --windows 32 --json)

Prints {"task","tokens","nll","ppl",…} as `maskctl eval --json` does; with --expect it compares the two and exits with 1 when they
differ by more than 1e-4 nats a token. The same windows as maskctl's: a window is a request with the window's first token as context
and its other 255 tokens and the token after the window as continuation, so that every target of the window is scored once.
Documents get the tokenizer's BOS (--no-bos: none) and the separator (--separator ID, else the model's EOS) as there.
It also sends one rolling log-likelihood and one generation, the harness's other two kinds of request, and checks that neither fails.
"""
import argparse, json, math, sys
from pathlib import Path
from types import SimpleNamespace
from lm_eval.models.openai_completions import LocalCompletionsAPI
from tokenizers import Tokenizer

TOLERANCE = 1e-4  # nats a token
WINDOW = 256


def windows(options):
    """The token stream of the file, cut into lists of WINDOW + 1 ids; neighbours share one."""
    tokenizer = Tokenizer.from_file(str(Path(options.tokenizer) / 'tokenizer.json'))
    eos = json.loads((Path(options.tokenizer) / 'config.json').read_text())['eos_token_id']
    separator = options.separator if options.separator is not None else eos[0] if isinstance(eos, list) else eos
    ids = []
    for line in open(options.data, encoding='utf8'):
        ids += tokenizer.encode(json.loads(line)['text'], add_special_tokens=not options.no_bos).ids + [separator]
        if options.windows and len(ids) > options.windows * WINDOW: break
    count = (len(ids) - 1) // WINDOW
    count = min(count, options.windows or count)
    return [ids[i * WINDOW:(i + 1) * WINDOW + 1] for i in range(count)]


def client(options):
    header = {'X-Task': options.task, 'Authorization': f'Bearer {options.key}'}  # `header` replaces the harness's own Authorization
    return LocalCompletionsAPI(
        base_url=options.base_url.rstrip('/') + '/v1/completions', model=options.model, tokenizer=options.tokenizer,
        batch_size=options.batch, num_concurrent=options.concurrent, header=header)


def request(*args):
    return SimpleNamespace(args=args)


def main(options):
    lm, found = client(options), windows(options)
    scores = lm._loglikelihood_tokens([((None, None), w[:1], w[1:]) for w in found])
    tokens = WINDOW * len(found)
    nll = -sum(score for score, _ in scores) / tokens
    text = json.loads(open(options.data, encoding='utf8').readline())['text'][:400]
    [rolling] = lm.loglikelihood_rolling([request(text)], disable_tqdm=True)
    [(pair, greedy)] = lm.loglikelihood([SimpleNamespace(args=(text[:100], text[100:140]))], disable_tqdm=True)
    [generated] = lm.generate_until([request(text[:100], {'until': ['\n\n'], 'max_gen_toks': 16})], disable_tqdm=True)
    result = dict(task=options.task, tokens=tokens, nll=nll, ppl=math.exp(nll), tokenizerBackend=lm.tokenizer_backend, rolling=rolling,
                  loglikelihood=pair, isGreedy=greedy, generated=generated)
    print(json.dumps(result, ensure_ascii=False))
    assert rolling < 0 and pair < 0 and isinstance(generated, str), 'a request of the harness got no usable answer'
    if options.expect: compare(result, json.loads(Path(options.expect).read_text()))


def compare(ours, expected):
    difference = abs(ours['nll'] - expected['nll'])
    if ours['tokens'] != expected['tokens']:
        sys.exit(f"expected {expected['tokens']} tokens but the harness scored {ours['tokens']}")
    if not difference <= TOLERANCE:
        sys.exit(f"expected {expected['nll']:.6f} nats a token but the harness reads {ours['nll']:.6f}: {difference:.1e} apart")
    print(f'equal to {difference:.1e} nats a token', file=sys.stderr)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('base_url')
    p.add_argument('--task', default='dense')
    p.add_argument('--model', default='tiny')
    p.add_argument('--key', default='none')
    p.add_argument('--tokenizer', default='models/tiny', help='model directory with tokenizer.json and config.json')
    p.add_argument('--data', required=True)
    p.add_argument('--windows', type=int)
    p.add_argument('--separator', type=int)
    p.add_argument('--no-bos', action='store_true')
    p.add_argument('--batch', type=int, default=4)
    p.add_argument('--concurrent', type=int, default=1)
    p.add_argument('--expect', help='file with the output of `maskctl eval --json`')
    main(p.parse_args())
