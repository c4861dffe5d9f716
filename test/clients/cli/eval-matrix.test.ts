/** `maskctl eval` of several tasks on several texts: the paper's Table 4. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { TINY } from '../../tiny.js';
import { maskctl } from './maskctl.js';

interface Evaluated {
  readonly task: string;
  readonly data?: string;
  readonly ppl: number;
}

const folder = mkdtempSync(join(tmpdir(), 'maskctl-matrix-'));
after(() => rmSync(folder, { recursive: true }));

const texts = [join(folder, 'french.valid.jsonl'), join(folder, 'shell.txt')];
writeFileSync(
  texts[0] as string,
  `${JSON.stringify({ text: 'Le chat est sur la table, et le chien dort. '.repeat(80) })}\n`,
);
writeFileSync(texts[1] as string, 'for file in *.txt; do cat "$file"; done\n'.repeat(80));

const evaluate = (task: string, data: readonly string[], ...args: string[]): ReturnType<typeof maskctl> =>
  maskctl(['eval', '--model', TINY, '--threads', '1', '--windows', '1', '--task', task, '--data', ...data, ...args]);

test('several tasks on several texts are a matrix for people and an array for machines, with the same figures', async () => {
  const people = await evaluate('dense,general', texts);
  const machines = await evaluate('dense,general', texts, '--json');
  assert.deepEqual([people.code, machines.code], [0, 0], people.stderr + machines.stderr);
  const [header, ...rows] = people.stdout.trimEnd().split('\n');
  assert.match(header as string, /^PPL +french +shell +AVERAGE$/);
  const results = JSON.parse(machines.stdout) as Evaluated[];
  assert.deepEqual(
    results.map(({ task, data }) => [task, data]),
    ['dense', 'general'].flatMap((task) => texts.map((data) => [task, data])),
  );
  const expected = ['dense', 'general'].map((task) => {
    const own = results.filter((result) => result.task === task).map(({ ppl }) => ppl);
    return [task, ...[...own, ((own[0] as number) + (own[1] as number)) / 2].map((ppl) => ppl.toFixed(2))];
  });
  assert.deepEqual(
    rows.map((row) => row.split(/ +/)),
    expected,
  );
});

test('texts whose names are alike keep their paths as titles', async () => {
  const [french] = texts as [string];
  const { stdout } = await evaluate('dense,general', [french, french]);
  assert.equal(stdout.split('\n')[0]?.split(french).length, 3, stdout);
});

test('one task on one text is one object', async () => {
  const { stdout } = await evaluate('general', texts.slice(0, 1), '--json');
  assert.deepEqual(Object.keys(JSON.parse(stdout) as object), ['task', 'tokens', 'nll', 'ppl']);
});
