/** Range requests (RFC 9110 §14): one range of bytes; a list of ranges is answered with the whole, as §14.2 allows. */
import type { Request, Response } from 'express';
import { ServerError } from '../errors.js';

export interface ByteRange {
  readonly start: number;
  /** Inclusive. */
  readonly end: number;
}

/** Undefined: send everything. Throws ServerError range_not_satisfiable. */
export function rangeOf(req: Request, res: Response, bytes: number, etag: string): ByteRange | undefined {
  const { range, 'if-range': ifRange } = req.headers;
  if (range === undefined || req.method !== 'GET') return undefined;
  if (ifRange !== undefined && ifRange !== etag) return undefined;
  const match = /^bytes=(\d*)-(\d*)$/.exec(range.trim());
  if (!match || (match[1] === '' && match[2] === '')) return undefined;
  const [first, last] = [match[1] as string, match[2] as string];
  const start = first === '' ? Math.max(0, bytes - Number(last)) : Number(first);
  const end = first === '' || last === '' ? bytes - 1 : Math.min(Number(last), bytes - 1);
  if (start >= bytes || (first === '' && Number(last) === 0)) {
    res.set('Content-Range', `bytes */${bytes}`);
    throw new ServerError('range_not_satisfiable', `the mask has ${bytes} bytes but Range asks for ${range}`);
  }
  return end < start ? undefined : { start, end };
}
