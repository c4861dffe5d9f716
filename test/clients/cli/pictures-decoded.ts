/** Pictures, looked at by tests. */
import sharp from 'sharp';
import type { Colour } from '../../../clients/cli/pictures/colours.js';

export interface Decoded {
  readonly width: number;
  readonly height: number;
  at(x: number, y: number): Colour;
}

export async function decodePng(png: Uint8Array): Promise<Decoded> {
  const { format, hasAlpha } = await sharp(png).metadata();
  if (format !== 'png' || hasAlpha) throw new Error(`expected a PNG without transparency but received ${format}`);
  const { data, info } = await sharp(png).raw().toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  return {
    width,
    height,
    at(x, y) {
      if (!(x >= 0 && x < width && y >= 0 && y < height)) throw new RangeError(`no pixel ${x}, ${y}`);
      const at = (y * width + x) * channels;
      return [data[at] as number, data[at + 1] as number, data[at + 2] as number];
    },
  };
}

/** The texts that an SVG draws, in order. */
export function labelsOf(svg: string): string[] {
  return [...svg.matchAll(/<path role="img" aria-label="([^"]*)"/g)].map(([, label]) =>
    (label as string).replace(/&#(\d+);/g, (_, code: string) => String.fromCharCode(Number(code))),
  );
}

const HOOK =
  'export async function resolve(name, context, next) {' +
  " if (name === 'sharp') throw Object.assign(new Error('not found: sharp'), { code: 'ERR_MODULE_NOT_FOUND' });" +
  ' return next(name, context) }';
const REGISTER = `import { register } from 'node:module'; register(${JSON.stringify(dataUrl(HOOK))});`;

/** The environment of a child process that has no sharp. */
export const WITHOUT_SHARP = { NODE_OPTIONS: `--import ${dataUrl(REGISTER)}` };

function dataUrl(source: string): string {
  return `data:text/javascript,${encodeURIComponent(source).replace(/'/g, '%27')}`;
}
