import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { MAIN, maskctl } from './maskctl.js';

const COMMANDS = [
  'complete',
  'tasks',
  'push',
  'pull',
  'rm',
  'versions',
  'rollback',
  'inspect',
  'eval',
  'prune',
  'diff',
  'train',
  'prepare',
  'sensitivity',
  'import',
  'export',
];

test('--help names every command, and each --help has its examples and the options of all', async () => {
  const { code, stdout } = await maskctl(['--help']);
  assert.equal(code, 0);
  for (const command of COMMANDS) assert.match(stdout, new RegExp(`^ {2}${command}[ |]`, 'm'));
  const helps = await Promise.all(COMMANDS.map((command) => maskctl([command, '--help'])));
  helps.forEach((help, index) => {
    const command = COMMANDS[index] as string;
    assert.equal(help.code, 0, command);
    assert.match(help.stdout, new RegExp(`Usage: maskctl ${command}`), command);
    assert.match(help.stdout, new RegExp(`^ {2}\\$ .*maskctl ${command}`, 'm'), command);
    assert.match(help.stdout, /--server <url>.*--key <key>.*--json/s, command);
  });
});

test('--version is that of the package', async () => {
  const { version } = JSON.parse(readFileSync(new URL('../../../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  for (const flag of ['--version', '-V']) {
    const { code, stdout } = await maskctl([flag]);
    assert.deepEqual({ code, stdout }, { code: 0, stdout: `${version}\n` });
  }
});

test('a command line that can not be run exits with 2 and one line', async () => {
  const cases: [string[], RegExp][] = [
    [['comlete', 'x'], /unknown command 'comlete' \(Did you mean complete\?\)/],
    [['complete', 'x', '--temprature', '1'], /unknown option '--temprature' \(Did you mean --temperature\?\)/],
    [['complete', 'x', '--temperature', 'hot'], /'hot' is invalid\. Expected a number from 0 to 100/],
    [['complete', 'x', '--max-tokens', '1.5'], /'1\.5' is invalid\. Expected an integer of at least 0/],
    [['push', 'french'], /missing required argument 'file'/],
    [['tasks', 'french'], /too many arguments/],
  ];
  for (const [args, message] of cases) {
    const { code, stdout, stderr } = await maskctl(args);
    assert.match(stderr, message);
    assert.match(stderr, /^maskctl: [^\n]*\n$/);
    assert.deepEqual({ code, stdout }, { code: 2, stdout: '' }, args.join(' '));
  }
});

test('without a command the help goes to stderr', async () => {
  const { code, stdout, stderr } = await maskctl([]);
  assert.deepEqual({ code, stdout }, { code: 2, stdout: '' });
  assert.match(stderr, /^Usage: maskctl/);
});

test('the entry is a script that the bin link of npm can run', async () => {
  assert.match(readFileSync(MAIN, 'utf8'), /^#!\/usr\/bin\/env node\n/);
  const { stdout } = await promisify(execFile)(process.execPath, [MAIN, '--version'], { cwd: '/' });
  assert.match(stdout, /^\d+\.\d+\.\d+\n$/);
});
