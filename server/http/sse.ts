/**
 * Server-sent events as OpenAI frames them: `data: {json}` blocks and a last `data: [DONE]`. Never `event:` or `id:` lines, which break clients
 * (https://html.spec.whatwg.org/multipage/server-sent-events.html; notes/ecosystem.md 1.3). Comments keep a silent stream alive.
 */
import type { Response } from 'express';
import { errorBody, type ServerError } from '../errors.js';
import type { Limits } from './limits.js';
import { ClientGone } from './request-scope.js';

const KEEP_ALIVE = ': ka\n\n';

export class EventStream {
  /** True once the status line is out: from then on, errors are events. */
  opened = false;
  private readonly early: string[] = [];
  private readonly flushTimer: NodeJS.Timeout;
  private readonly keepAliveTimer: NodeJS.Timeout;
  private lastWrite = performance.now();

  /** Opens by itself after `limits.flushAfter`: until then an error can still be an answer with its status. */
  constructor(
    private readonly res: Response,
    private readonly limits: Limits,
  ) {
    this.flushTimer = setTimeout(() => this.open(), limits.flushAfter);
    this.keepAliveTimer = setInterval(() => this.keepAlive(), limits.keepAlive);
  }

  /** Sends the headers, and what came before. Harmless when open. */
  open(): void {
    if (this.opened || this.res.destroyed) return;
    this.opened = true;
    clearTimeout(this.flushTimer);
    this.res.status(200).set({
      'Content-Type': 'text/event-stream; charset=utf-8',
      'Cache-Control': 'no-cache',
      // nginx would collect events otherwise.
      'X-Accel-Buffering': 'no',
    });
    this.res.flushHeaders();
    for (const block of this.early.splice(0)) this.res.write(block);
  }

  /** Resolves when the client can take more. Throws ClientGone when it never does. */
  async send(data: unknown): Promise<void> {
    const block = `data: ${JSON.stringify(data)}\n\n`;
    if (this.res.destroyed) throw new ClientGone();
    if (!this.opened) return void this.early.push(block);
    this.lastWrite = performance.now();
    if (!this.res.write(block)) await this.drained();
  }

  /** The end of a whole answer. */
  async done(): Promise<void> {
    this.open();
    this.res.write('data: [DONE]\n\n');
    await this.finish();
  }

  /** An error after the headers: clients raise it as they would a status. There is no [DONE] after it. */
  async fail(error: ServerError): Promise<void> {
    this.res.write(`data: ${JSON.stringify(errorBody(error))}\n\n`);
    await this.finish();
  }

  /** Stops the timers; call it in `finally`. */
  close(): void {
    clearTimeout(this.flushTimer);
    clearInterval(this.keepAliveTimer);
  }

  private finish(): Promise<void> {
    return new Promise((resolve) => {
      this.res.once('close', resolve);
      this.res.end(resolve);
      if (this.res.destroyed) resolve();
    });
  }

  private keepAlive(): void {
    if (!this.opened || this.res.destroyed || this.res.writableNeedDrain) return;
    if (performance.now() - this.lastWrite >= this.limits.keepAlive / 2) this.res.write(KEEP_ALIVE);
  }

  private drained(): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (error?: ClientGone): void => {
        clearTimeout(timer);
        this.res.off('drain', onDrain);
        this.res.off('close', onClose);
        if (error) reject(error);
        else resolve();
      };
      const onDrain = (): void => settle();
      const onClose = (): void => settle(new ClientGone());
      const timer = setTimeout(() => {
        this.res.destroy();
        settle(new ClientGone(`the client read nothing for ${this.limits.stall / 1000} s`));
      }, this.limits.stall);
      this.res.once('drain', onDrain);
      this.res.once('close', onClose);
      if (this.res.destroyed) onClose();
    });
  }
}
