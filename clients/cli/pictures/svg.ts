/** Pictures as SVG, written by hand, and what sharp makes of them. */
import { UsageError } from '../usage-error.js';
import { checkWritable, writeNewFile } from '../new-file.js';

type Sharp = typeof import('sharp').default;

export type PictureKind = 'png' | 'svg';

export interface Pixels {
  readonly width: number;
  readonly height: number;
  /** (height, width, 3): red, green, blue. */
  readonly rgb: Uint8Array;
}

/** A picture on white; `title` is for those who can't see it. */
export function svgDocument(width: number, height: number, title: string, elements: readonly string[]): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">`,
    `<title>${escapeXml(title)}</title>`,
    rect(0, 0, width, height, '#fff'),
    ...elements,
    '</svg>\n',
  ].join('\n');
}

export function rect(x: number, y: number, width: number, height: number, fill: string, stroke?: string): string {
  const outline = stroke === undefined ? '' : ` stroke="${stroke}"`;
  return `<rect x="${x}" y="${y}" width="${width}" height="${height}" fill="${fill}"${outline}/>`;
}

export function line(x1: number, y1: number, x2: number, y2: number, stroke: string, more = ''): string {
  return `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${stroke}"${more === '' ? '' : ` ${more}`}/>`;
}

/** For attributes and content. What XML 1.0 §2.2 does not allow at all becomes U+FFFD. */
export function escapeXml(content: string): string {
  return content
    .replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, '\ufffd')
    .replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** sharp is an optional package: most of what maskctl does needs none. Throws one line where it is absent or does not load. */
export async function loadSharp(): Promise<Sharp> {
  try {
    return (await import('sharp')).default;
  } catch (cause) {
    throw new Error('pictures need the optional package sharp: npm i sharp', { cause });
  }
}

/** Refuses, before any work, what can't become a picture here: a file name of another kind, no folder for it, no sharp. */
export async function checkPicture(
  path: string,
  option: string,
  kinds: readonly PictureKind[] = ['png'],
): Promise<void> {
  const kind = kinds.find((candidate) => path.toLowerCase().endsWith(`.${candidate}`));
  if (kind === undefined) {
    const endings = kinds.map((candidate) => `.${candidate}`).join(' or ');
    throw new UsageError(`expected ${option} to be a file name that ends in ${endings} but received ${path}`);
  }
  await checkWritable(path);
  if (kind === 'png') await loadSharp();
}

/** Writes a picture as what its file name says: SVG text, or PNG. */
export async function writePicture(path: string, svg: string): Promise<void> {
  await writeNewFile(path, [path.toLowerCase().endsWith('.svg') ? Buffer.from(svg) : await svgToPng(svg)]);
}

export async function svgToPng(svg: string): Promise<Buffer> {
  return pixelsToPng(await svgToPixels(svg));
}

export async function svgToPixels(svg: string): Promise<Pixels> {
  const sharp = await loadSharp();
  const image = sharp(Buffer.from(svg), { unlimited: true }).flatten({ background: '#fff' }).toColourspace('srgb');
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, rgb: data };
}

export async function pixelsToPng({ width, height, rgb }: Pixels): Promise<Buffer> {
  const sharp = await loadSharp();
  return sharp(rgb, { raw: { width, height, channels: 3 } })
    .png({ compressionLevel: 9 })
    .toBuffer();
}
