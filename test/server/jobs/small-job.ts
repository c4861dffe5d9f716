/** Small training jobs on models/tiny, as a client posts and watches them. */
import assert from 'node:assert/strict';
import type { TrainSettings } from '../../../clients/sdk/index.js';
import type { TrainJobJson } from '../../../server/http/train-response.js';
import type { TrainEvent } from '../../../server/trainer/types.js';
import { DOCUMENTS } from '../trainer/runs.js';

/** Two sequences of 64 tokens a step, two windows held out, a magnitude prior: a second's work. */
export const SMALL_SETTINGS: TrainSettings = {
  ...{ loss: 'lm', prior: 'magnitude', steps: 6, batch: 2, seq: 64, warmup: 1, learningRate: 5e-3 },
  ...{ evaluateEvery: 3, evaluateWindows: 2 },
};
/** Longer than any test waits. */
export const ENDLESS = { steps: 1_000_000, evaluateEvery: 0 } as const;

export type JobEventJson =
  | { readonly type: 'job'; readonly job: TrainJobJson }
  | { readonly type: 'progress'; readonly stage: string; readonly done: number; readonly of: number }
  | TrainEvent;

/** The body of a POST /v1/train. */
export function smallJob(task: string, settings: object = {}, more: object = {}): Record<string, unknown> {
  return {
    task,
    sources: [{ name: 'cats.txt', documents: DOCUMENTS }],
    settings: { ...SMALL_SETTINGS, ...settings },
    ...more,
  };
}

export async function postJob(
  url: string,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<TrainJobJson> {
  const response = await fetch(`${url}/v1/train`, { method: 'POST', headers, body: JSON.stringify(body) });
  const text = await response.text();
  assert.equal(response.status, 202, text);
  const job = JSON.parse(text) as TrainJobJson;
  assert.equal(response.headers.get('location'), `/v1/train/${job.id}`);
  return job;
}

export async function getJob(url: string, id: string): Promise<TrainJobJson> {
  const response = await fetch(`${url}/v1/train/${id}`);
  assert.equal(response.status, 200);
  return (await response.json()) as TrainJobJson;
}

/** The events of a job as they come. Ends at [DONE]; throws when the stream ends before. */
export async function* eventsOfJob(url: string, id: string): AsyncGenerator<JobEventJson, void, undefined> {
  const response = await fetch(`${url}/v1/train/${id}/events`);
  assert.equal(response.status, 200);
  assert.match(response.headers.get('content-type') ?? '', /^text\/event-stream/);
  let text = '';
  const decoder = new TextDecoder();
  for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
    text += decoder.decode(chunk, { stream: true });
    const blocks = text.split('\n\n');
    text = blocks.pop() ?? '';
    for (const block of blocks) {
      if (block === 'data: [DONE]') return;
      assert.match(block, /^(data: |: )/, 'neither id: nor event: lines');
      if (block.startsWith('data: ')) yield JSON.parse(block.slice('data: '.length)) as JobEventJson;
    }
  }
  throw new Error('the stream ended before [DONE]');
}

/** All events until the job is over, and the job. */
export async function finishedJob(url: string, id: string): Promise<{ events: JobEventJson[]; job: TrainJobJson }> {
  const events: JobEventJson[] = [];
  for await (const event of eventsOfJob(url, id)) events.push(event);
  const last = events.at(-1);
  assert.ok(last?.type === 'job');
  return { events, job: last.job };
}

/** Resolves at the first event for which `holds` is true. */
export async function eventWhere(
  url: string,
  id: string,
  holds: (event: JobEventJson) => boolean,
): Promise<JobEventJson> {
  for await (const event of eventsOfJob(url, id)) if (holds(event)) return event;
  throw new Error('never came');
}
