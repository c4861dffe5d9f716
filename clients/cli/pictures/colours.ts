/** Colours of pictures, chosen so that people with any common colour vision tell them apart. */

export type Colour = readonly [red: number, green: number, blue: number];

/**
 * Six of the eight colours of Okabe and Ito (Color Universal Design, 2008), in an order that runs from cold to warm as the kept
 * positions of a 2:4 pattern move to the right.
 */
export const SIX_COLOURS: readonly Colour[] = [
  [0, 114, 178],
  [86, 180, 233],
  [0, 158, 115],
  [240, 228, 66],
  [230, 159, 0],
  [213, 94, 0],
];

/** From almost white to dark blue: lightness falls all the way, so it also reads in grey. */
const HEAT: readonly Colour[] = [
  [247, 249, 252],
  [192, 215, 235],
  [108, 166, 209],
  [40, 105, 166],
  [10, 42, 92],
];

/** The colour of `share` (0 to 1, clamped) on the heat scale. */
export function heatColour(share: number): Colour {
  const at = Math.min(1, Math.max(0, share)) * (HEAT.length - 1);
  const lower = Math.min(Math.floor(at), HEAT.length - 2);
  const [from, to] = [HEAT[lower] as Colour, HEAT[lower + 1] as Colour];
  const mix = (channel: 0 | 1 | 2): number => Math.round(from[channel] + (to[channel] - from[channel]) * (at - lower));
  return [mix(0), mix(1), mix(2)];
}

/** Relative luminance, 0 to 1 (WCAG 2.1). */
export function luminance([red, green, blue]: Colour): number {
  const linear = (channel: number): number => {
    const value = channel / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
}

/** Dark or white ink, whichever stands out more from `background`. */
export function inkOn(background: Colour): string {
  return luminance(background) > 0.27 ? '#222' : '#fff';
}

/** `#rrggbb` */
export function hex(colour: Colour): string {
  return `#${colour.map((channel) => channel.toString(16).padStart(2, '0')).join('')}`;
}
