/** How much a reproduction spends: quick shows the shape of every table in minutes, full repeats the yardstick's settings and takes hours. */

export interface Budget {
  readonly name: 'quick' | 'full';
  /** Windows of WINDOW_TOKENS that one-shot pruning is calibrated on. */
  readonly calibrationWindows: number;
  /** Windows of WINDOW_TOKENS of each domain's valid text that are scored. */
  readonly windows: number;
  readonly batch: number;
  readonly seq: number;
  /** Steps of a general mask, and of a mask for one domain. */
  readonly generalSteps: number;
  readonly domainSteps: number;
  readonly fineTuneSteps: number;
  /** Gumbel's peak learning rate: the paper's 5e-4 is for 2,000 steps of a million tokens, and the yardstick's 5e-3 forgets the prior in the first dozens of steps. */
  readonly gumbelRate: number;
  /** Domains that masks are learned for where the person names none, the first of all; the tables average over the same ones. */
  readonly taskDomains: number;
  /** Steps of the sweep's runs. */
  readonly sweepSteps: readonly number[];
  readonly sweepTravels: readonly number[];
  readonly sweepSeeds: readonly number[];
}

/** Tokens of a window, for calibration and perplexity alike. */
export const WINDOW_TOKENS = 256;

export const QUICK: Budget = {
  name: 'quick',
  calibrationWindows: 64,
  windows: 16,
  batch: 8,
  seq: 256,
  generalSteps: 100,
  domainSteps: 60,
  fineTuneSteps: 40,
  gumbelRate: 1.5e-3,
  taskDomains: 2,
  sweepSteps: [50, 100],
  sweepTravels: [2, 4],
  sweepSeeds: [0],
};

export const FULL: Budget = {
  name: 'full',
  calibrationWindows: 256,
  windows: 32,
  batch: 16,
  seq: 256,
  generalSteps: 400,
  domainSteps: 150,
  fineTuneSteps: 100,
  gumbelRate: 5e-3,
  taskDomains: Infinity,
  sweepSteps: [100, 400],
  sweepTravels: [2, 4, 8, 16, 32],
  sweepSeeds: [0, 1, 2],
};
