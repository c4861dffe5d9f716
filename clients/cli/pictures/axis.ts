/** An axis of a plot: data → pixels, and where its ticks go. */

const TICKS = 8; // about as many
const MOST_FINE_DECADES = 4; // with ticks between the powers of ten
const LEAST_WITH_EXPONENT = 1e8;
const MOST_WITH_EXPONENT = 1e-4;
const LOG_FACTORS = [1, 2, 5];
const ROOM = 0.04; // between the data and the ends of the axis, a share of its length

export interface Axis {
  /** Pixels of a value; the axis need not hold it. */
  at(value: number): number;
  readonly ticks: readonly Tick[];
}

export interface Tick {
  readonly value: number;
  readonly label: string;
}

/** An axis from pixel `start` (least value) to `end` that holds all `values`: one finite number at least, above 0 if `log`. */
export function axisOver(values: readonly number[], start: number, end: number, log: boolean): Axis {
  const scaled = log ? Math.log10 : (value: number): number => value;
  const [low, high] = widened(scaled(least(values)), scaled(most(values)), log);
  const at = (value: number): number => start + ((scaled(value) - low) / (high - low)) * (end - start);
  const range: [number, number] = log ? [10 ** low, 10 ** high] : [low, high];
  const decades = log ? logTicks(...range) : undefined;
  const places = decades ?? linearTicks(...range);
  const label =
    decades === undefined ? linearLabel(places) : (value: number): string => numberLabel(value, value, value);
  return { at, ticks: places.map((value) => ({ value, label: label(value) })) };
}

/** Ends a little outside the data; data that is one value gets an axis too. */
function widened(low: number, high: number, log: boolean): [number, number] {
  const room = high > low ? (high - low) * ROOM : log || low === 0 ? 0.5 : Math.abs(low) * 0.05;
  return [low - room, high + room];
}

/** Multiples of 1, 2 or 5 times a power of ten. */
function linearTicks(low: number, high: number): number[] {
  const rough = (high - low) / TICKS;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) as number);
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step) - first + 1;
  // Dividing by a power of ten rounds once where multiplying by its inverse would show (3 · 0.1).
  return Array.from({ length: count }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

/** 1, 2 and 5 times powers of ten, or powers alone where these are many; undefined: too few, the range is narrow. */
function logTicks(low: number, high: number): number[] | undefined {
  const [first, last] = [Math.floor(Math.log10(low)), Math.floor(Math.log10(high))];
  const powers = Array.from({ length: last - first + 1 }, (_, index) => first + index);
  const within = (value: number): boolean => value >= low && value <= high;
  if (powers.length > MOST_FINE_DECADES) {
    const every = Math.ceil(powers.length / TICKS);
    return powers
      .filter((power) => power % every === 0)
      .map((power) => Number(`1e${power}`))
      .filter(within);
  }
  const fine = powers.flatMap((power) => LOG_FACTORS.map((factor) => Number(`${factor}e${power}`))).filter(within);
  return fine.length >= 3 ? fine : undefined;
}

/** All ticks of a linear axis are written alike. */
function linearLabel(places: readonly number[]): (value: number) => string {
  const [first = 0, second = first] = places;
  const largest = most(places.map(Math.abs));
  return (value) => numberLabel(value, second - first || largest, largest);
}

/** `1,500`, `0.025`, `2e-7`: with decimals for numbers as small as `finest`, with an exponent if `largest` needs one. */
function numberLabel(value: number, finest: number, largest: number): string {
  if (value === 0) return '0';
  if (largest >= LEAST_WITH_EXPONENT || largest < MOST_WITH_EXPONENT) return value.toExponential().replace('e+', 'e');
  const digits = Math.max(0, -Math.floor(Math.log10(finest) + 1e-9));
  return value.toLocaleString('en-US', { maximumFractionDigits: digits, minimumFractionDigits: digits });
}

/** Math.min(...values) has a limit of arguments. */
function least(values: readonly number[]): number {
  return values.reduce((a, b) => Math.min(a, b));
}

function most(values: readonly number[]): number {
  return values.reduce((a, b) => Math.max(a, b));
}
