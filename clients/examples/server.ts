/** Where the examples look for the server: MASKSERVE_URL and MASKSERVE_API_KEY, as maskctl does. */
import { MaskServe } from '../sdk/index.js';

export function connect(task?: string): MaskServe {
  const apiKey = process.env['MASKSERVE_API_KEY'];
  return new MaskServe({
    baseUrl: process.env['MASKSERVE_URL'] ?? 'http://127.0.0.1:8080',
    ...(apiKey === undefined ? {} : { apiKey }),
    ...(task === undefined ? {} : { task }),
  });
}
