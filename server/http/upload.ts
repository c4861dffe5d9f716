/** The body of a mask upload: streamed to the registry as it comes, never held, never slower than a floor. */
import { Transform, type Readable } from 'node:stream';
import type { Request, Response } from 'express';
import { ServerError } from '../errors.js';
import { continueBody } from './json-body.js';
import type { Limits } from './limits.js';
import { ClientGone } from './request-scope.js';

const REFUSED_TYPE = /^(multipart\/|application\/json\b)/i;

/** Throws ServerError unsupported_media_type or body_too_large before a byte is read. */
export function openUpload(req: Request, res: Response, maxBytes: number, limits: Limits): Readable {
  const { 'content-type': type = '', 'content-encoding': coding = 'identity', 'content-length': length } = req.headers;
  if (REFUSED_TYPE.test(type)) {
    throw new ServerError(
      'unsupported_media_type',
      `expected the bytes of a mask as the body (curl -T FILE) but received ${type}`,
    );
  }
  if (coding !== 'identity') {
    throw new ServerError('unsupported_media_type', `expected no Content-Encoding but received ${coding}`);
  }
  if (Number(length ?? 0) > maxBytes) {
    throw new ServerError(
      'body_too_large',
      `expected a mask of at most ${maxBytes} bytes but ${length} were announced; see --max-mask-bytes`,
    );
  }
  continueBody(req, res);
  return withFloor(req, limits);
}

/**
 * Reads and forgets what is left of a body after an error, for a while: a connection that is cut while the client writes loses the answer, and one that isn't
 * can be used again.
 */
export function lingerAfterError(req: Request, { linger }: Limits): void {
  if (req.complete || req.destroyed) return;
  const { socket } = req;
  req.unpipe();
  req.resume();
  const timer = setTimeout(() => socket.destroy(), linger).unref();
  req.once('end', () => clearTimeout(timer));
}

/** Passes a body on, and fails with request_timeout when a window of time brings too little, or with the reason when the client goes away. */
export function withFloor(req: Request, { uploadWindow, uploadBytes }: Limits): Readable {
  let received = 0;
  const meter = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      received += chunk.length;
      done(null, chunk);
    },
  });
  const timer = setInterval(() => {
    // Time that the registry takes is not the client's.
    const waitsForUs = meter.writableNeedDrain || meter.readableLength > 0;
    if (received < uploadBytes && !waitsForUs) meter.destroy(tooSlow(uploadWindow, uploadBytes));
    received = 0;
  }, uploadWindow);
  meter.once('close', () => clearInterval(timer));
  req.once('close', () => {
    if (!req.complete) meter.destroy(new ClientGone('the client went away during the upload'));
  });
  // Whoever reads the meter hears of its end; when nobody does any more, it must not bring the process down.
  meter.on('error', () => undefined);
  req.on('error', () => undefined);
  req.pipe(meter);
  return meter;
}

function tooSlow(windowMs: number, bytes: number): ServerError {
  return new ServerError(
    'request_timeout',
    `the upload brought less than ${bytes} bytes in ${windowMs / 1000} s; send it again over a faster connection`,
  );
}
