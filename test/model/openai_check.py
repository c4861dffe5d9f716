"""Drives a running server with the OpenAI client for Python, unmodified: only a base URL and a default header.

    python3.11 -m venv venv && . venv/bin/activate && pip install openai
    npm start -- --port 8080 &
    python test/model/openai_check.py http://127.0.0.1:8080 --task french [--prompt TEXT] [--key KEY]

Prints one JSON object: every check with what came; exits with 1 when one failed.
"""
import argparse, asyncio, json, sys
import openai

CHECKS = {}


def check(name, passed, came):
    CHECKS[name] = dict(passed=bool(passed), came=came)


def settings(options):
    return dict(base_url=options.base_url.rstrip('/') + '/v1', api_key=options.key, default_headers={'X-Task': options.task})


def complete_and_stream(client, options):
    arguments = dict(model=options.model, prompt=options.prompt, max_tokens=24, temperature=0)
    whole = client.completions.create(**arguments)
    choice, usage = whole.choices[0], whole.usage
    check('complete', whole.object == 'text_completion' and choice.text and choice.finish_reason in ('stop', 'length'), choice.text)
    check('usage adds up', usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 1, usage.model_dump())

    chunks = list(client.completions.create(**arguments, stream=True, stream_options={'include_usage': True}))
    text = ''.join(c.choices[0].text for c in chunks if c.choices)
    ends = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    check('stream equals complete', text == choice.text and len(chunks) > 3, dict(chunks=len(chunks), text=text))
    check('stream ends once, for the same reason', ends == [choice.finish_reason], ends)
    last = chunks[-1]
    check('last chunk has the usage', last.choices == [] and last.usage == usage, last.usage and last.usage.model_dump())
    check('other chunks have none', all(c.usage is None for c in chunks[:-1]), None)

    again = client.completions.create(model=options.model, prompt=options.prompt, max_tokens=24, temperature=0.8, seed=7)
    same = client.completions.create(model=options.model, prompt=options.prompt, max_tokens=24, temperature=0.8, seed=7)
    check('same seed, same text', again.choices[0].text == same.choices[0].text, again.choices[0].text)


def headers(client, options):
    raw = client.completions.with_raw_response.create(model=options.model, prompt=options.prompt, max_tokens=1)
    names = ['x-task', 'x-mask-digest', 'x-request-id']
    came = {n: raw.headers.get(n) for n in names}
    check('response names task and request', came['x-task'] == options.task and came['x-request-id'], came)


def batch_and_logprobs(client, options):
    batch = client.completions.create(model=options.model, prompt=[options.prompt, 'a'], n=2, max_tokens=3, temperature=1, seed=3)
    check('batch of prompts times n', [c.index for c in batch.choices] == [0, 1, 2, 3], [c.index for c in batch.choices])

    scored = client.completions.create(model=options.model, prompt=options.prompt, max_tokens=1, temperature=0, logprobs=2, echo=True)
    lp = scored.choices[0].logprobs
    length = scored.usage.prompt_tokens + 1
    sizes = [len(lp.tokens), len(lp.token_logprobs), len(lp.top_logprobs), len(lp.text_offset)]
    check('echo: a log-probability for every token but the first',
          sizes == [length] * 4 and lp.token_logprobs[0] is None and all(x <= 0 for x in lp.token_logprobs[1:]), sizes)
    inside = all(token in top and top[token] == p for token, p, top in zip(lp.tokens[1:], lp.token_logprobs[1:], lp.top_logprobs[1:]))
    check('echo: top_logprobs always has the token itself', inside, lp.top_logprobs[1])

    ids = client.completions.create(model=options.model, prompt=[5, 6, 7], max_tokens=1, temperature=0, logprobs=0, echo=True)
    check('token-id prompt gets no BOS', ids.usage.prompt_tokens == 3, ids.usage.prompt_tokens)
    stopped = client.completions.create(model=options.model, prompt=options.prompt, max_tokens=24, temperature=0, stop=None, seed=None)
    check('explicit nulls are fine', stopped.choices[0].text is not None, stopped.choices[0].finish_reason)


def models(client, options):
    listed = [m.id for m in client.models.list()]
    check('models list the base and its tasks', any(m.endswith(f':{options.task}') for m in listed) or options.task in listed or
          options.task == 'dense', listed)
    one = client.models.retrieve(listed[-1])
    check('models are retrieved by id', one.id == listed[-1] and one.object == 'model', one.id)


def errors(options):
    lost = openai.OpenAI(**{**settings(options), 'default_headers': {'X-Task': 'no-such-task'}}, max_retries=0)
    try:
        lost.completions.create(model=options.model, prompt='a', max_tokens=1)
        check('an unknown task is NotFoundError', False, 'an answer')
    except openai.NotFoundError as e:
        check('an unknown task is NotFoundError', e.code == 'task_not_found' and e.status_code == 404, str(e))
    client = openai.OpenAI(**settings(options), max_retries=0)
    try:
        client.completions.create(model=options.model, prompt='a', max_tokens=-1)
        check('a negative max_tokens is BadRequestError', False, 'an answer')
    except openai.BadRequestError as e:
        check('a negative max_tokens is BadRequestError', e.type == 'invalid_request_error' and e.param == 'max_tokens', str(e))


async def concurrently(options):
    async with openai.AsyncOpenAI(**settings(options)) as client:
        async def one():
            stream = await client.completions.create(model=options.model, prompt=options.prompt, max_tokens=24, temperature=0, stream=True)
            return ''.join([c.choices[0].text async for c in stream if c.choices])
        texts = await asyncio.gather(*(one() for _ in range(4)))
        check('four async streams at once, all equal', len(set(texts)) == 1 and texts[0], texts[0])


def main(options):
    client = openai.OpenAI(**settings(options))
    complete_and_stream(client, options)
    headers(client, options)
    batch_and_logprobs(client, options)
    models(client, options)
    errors(options)
    asyncio.run(concurrently(options))
    print(json.dumps(dict(client=openai.__version__, task=options.task, passed=all(c['passed'] for c in CHECKS.values()), checks=CHECKS),
                     ensure_ascii=False, indent=1))
    sys.exit(0 if all(c['passed'] for c in CHECKS.values()) else 1)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('base_url')
    p.add_argument('--task', default='dense')
    p.add_argument('--model', default='tiny')
    p.add_argument('--prompt', default='The function returns')
    p.add_argument('--key', default='none')
    main(p.parse_args())
