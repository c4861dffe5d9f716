/** Text as SVG paths, in the font of glyphs.ts. */
import { CAPITAL_HEIGHT, GLYPH_GAP, glyphsOf, movedPath, UNITS_PER_EM } from './glyphs.js';
import { escapeXml } from './svg.js';

const STROKE = 1.75; // units of the font: one pixel at the common size
const BOLD_STROKE = 2.5;
const INK = '#222';

export const SMALL = 11;
export const NORMAL = 12;
export const LARGE = 17;

export interface TextStyle {
  /** Pixels of an em. */
  readonly size?: number;
  /** Which end of the text is at x. */
  readonly anchor?: 'start' | 'middle' | 'end';
  readonly bold?: boolean;
  readonly colour?: string;
  /** Read from below to above. */
  readonly turned?: boolean;
}

/** An SVG element that draws `content` with its baseline at y. */
export function text(x: number, y: number, content: string, style: TextStyle = {}): string {
  const { size = NORMAL, anchor = 'start', bold = false, colour = INK, turned = false } = style;
  const units = unitsWide(content);
  let at = anchor === 'start' ? 0 : anchor === 'middle' ? -units / 2 : -units;
  let path = '';
  for (const glyph of glyphsOf(content)) {
    path += movedPath(glyph.path, at);
    at += glyph.width + GLYPH_GAP;
  }
  const transform = `translate(${x} ${y})${turned ? ' rotate(-90)' : ''} scale(${size / UNITS_PER_EM})`;
  return (
    `<path role="img" aria-label="${escapeXml(content)}" transform="${transform}" d="${path}" fill="none" ` +
    `stroke="${escapeXml(colour)}" stroke-width="${bold ? BOLD_STROKE : STROKE}" stroke-linecap="round" stroke-linejoin="round"/>`
  );
}

/** Pixels from the first glyph's left edge to the last one's right. */
export function textWidth(content: string, size = NORMAL): number {
  return (unitsWide(content) * size) / UNITS_PER_EM;
}

/** From a line's middle down to the baseline that centres capitals and digits on it. */
export function belowMiddle(size = NORMAL): number {
  return (CAPITAL_HEIGHT / 2 / UNITS_PER_EM) * size;
}

/** As much of `content` as fits into `width` pixels, an ellipsis in its middle where something was left out. */
export function shortened(content: string, width: number, size = NORMAL): string {
  if (textWidth(content, size) <= width) return content;
  const characters = [...content];
  for (let kept = characters.length - 1; kept > 1; kept--) {
    const head = Math.ceil(kept / 2);
    const short = `${characters.slice(0, head).join('')}…${characters.slice(characters.length - (kept - head)).join('')}`;
    if (textWidth(short, size) <= width) return short;
  }
  return '…';
}

function unitsWide(content: string): number {
  return glyphsOf(content).reduce((sum, { width }, index) => sum + width + (index === 0 ? 0 : GLYPH_GAP), 0);
}
