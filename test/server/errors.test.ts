import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { ERROR_CODES, ERROR_MEANINGS, errorBody, errorTable, ServerError } from '../../server/errors.js';

const README = new URL('../../../README.md', import.meta.url);

/** Cells of a Markdown table, however wide its columns are drawn. */
function cellsOf(table: string): string[][] {
  return table
    .trim()
    .split('\n')
    .map((row) =>
      row
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim().replace(/^-+$/, '---')),
    );
}

describe('the table of errors', () => {
  it('is the one in the README', () => {
    const text = readFileSync(README, 'utf8');
    const table = /<!-- errors -->([^]*?)<!-- \/errors -->/.exec(text)?.[1];
    assert.ok(
      table,
      'README.md has no <!-- errors --> … <!-- /errors -->: put errorTable() of server/errors.ts between them',
    );
    assert.deepEqual(cellsOf(table), cellsOf(errorTable()));
  });

  it('has a status for every code, and OpenAI’s type for it', () => {
    const types: Record<number, string> = { 401: 'authentication_error', 403: 'permission_error', 404: 'not_found_error', 429: 'rate_limit_error' }; // prettier-ignore
    for (const [code, { status, type }] of Object.entries(ERROR_CODES)) {
      assert.equal(type, types[status] ?? (status >= 500 ? 'server_error' : 'invalid_request_error'), code);
    }
    assert.deepEqual(Object.keys(ERROR_MEANINGS), Object.keys(ERROR_CODES));
  });

  it('becomes OpenAI’s body, param null where there is none', () => {
    assert.deepEqual(errorBody(new ServerError('queue_full', 'full')), {
      error: { message: 'full', type: 'rate_limit_error', param: null, code: 'queue_full' },
    });
    const named = errorBody(new ServerError('invalid_request', 'no', { param: 'prompt' }));
    assert.equal(named.error.param, 'prompt');
  });
});
