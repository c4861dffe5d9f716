/**
 * `npm run reproduce -- [--full] [--only TABLE|curve]… [--sweep [--seeds N]] [--domains NAME,…] [--data DIR] [--model DIR] [--cache DIR] [--json FILE] [--markdown FILE] [--plot FILE] [--threads N]`: trains and prints this project's own versions of the tables of the
 * MaskLLM paper (arXiv 2409.17481) on models/tiny: perplexity on the valid text of DIR's domains, and masks for those of --domains. Quick unless --full. Finished cells are kept in the cache, so a run that was stopped goes on.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { checkPicture, writePicture } from '../../clients/cli/pictures/svg.js';
import { loadModel } from '../../server/engine/model.js';
import { hardware, hardwareLine } from '../bench/hardware.js';
import { TINY } from '../tiny.js';
import { FULL, QUICK, WINDOW_TOKENS, type Budget } from './budget.js';
import { CellCache } from './cell-cache.js';
import { CellRunner } from './cell-runner.js';
import { describe, type Cell, type CellResult } from './cells.js';
import { curvePicture } from './curve-picture.js';
import { readDomains, taskDomains, type Domains } from './domains.js';
import { tablesMarkdown } from './markdown.js';
import { paperTables, TABLE_IDS, type Table } from './paper-tables.js';
import { filled, sweepText, tableText, type PrintedTable } from './print.js';
import { sweepLine, sweepPoints, type SweepLine } from './sweep.js';

const { values } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    only: { type: 'string', multiple: true, default: [] },
    domains: { type: 'string' },
    sweep: { type: 'boolean', default: false },
    seeds: { type: 'string' },
    data: { type: 'string', default: '../shared/data' },
    model: { type: 'string', default: TINY },
    cache: { type: 'string', default: '.maskserve/reproduce' },
    json: { type: 'string' },
    markdown: { type: 'string' },
    plot: { type: 'string' },
    threads: { type: 'string', default: '0' },
  },
});

const CURVE = 'curve';
/** The picture of that table. */
const PLOT = values.plot ?? join(values.cache, 'curve.svg');

try {
  await reproduce();
} catch (error) {
  console.error(`reproduce: ${(error as Error).message}`);
  process.exitCode = 1;
}

async function reproduce(): Promise<void> {
  const budget = withSeeds(values.full ? FULL : QUICK, values.seeds);
  if (values.plot !== undefined) await checkPicture(values.plot, '--plot', ['png', 'svg']);
  const wanted = wantedTables(values.only);
  const domains = readDomains(values.data);
  const model = loadModel(values.model, { threads: Number(values.threads) });
  try {
    const conditions = { base: model.info.base, data: domains.digest, windows: budget.windows };
    const tasks = taskDomains(domains.names, budget.taskDomains, values.domains);
    const runner = new CellRunner(model, domains, new CellCache(values.cache, conditions), budget.windows);
    console.log(headline(budget, domains, model.info.name));
    const compute = computeAll(runner);
    if (values.sweep) report(budget, { sweep: await sweep(budget, compute) });
    else {
      const printed = await tables(paperTables(budget, tasks), wanted, compute);
      report(budget, { tables: printed });
      if (values.markdown !== undefined) writeFileSync(values.markdown, tablesMarkdown(printed));
    }
  } finally {
    model.dispose();
  }
}

type Compute = (cells: readonly Cell[]) => Promise<(cell: Cell) => CellResult>;

/** Each table is printed as soon as it is whole. */
async function tables(all: readonly Table[], wanted: ReadonlySet<string>, compute: Compute): Promise<PrintedTable[]> {
  const printed: PrintedTable[] = [];
  for (const table of all.filter(({ id }) => wanted.has(id))) {
    const cells = table.rows.flatMap(({ values }) => values.flatMap(({ parts }) => parts.map(({ cell }) => cell)));
    const resultOf = await compute(cells);
    const whole = filled(table, resultOf);
    console.log(tableText(whole));
    if (table.id === CURVE) await draw(curvePicture(table, resultOf));
    printed.push(whole);
  }
  return printed;
}

async function draw(svg: string | undefined): Promise<void> {
  if (svg === undefined) return console.log('no mask changed: nothing to draw\n');
  await writePicture(PLOT, svg);
  console.log(`drawn in ${PLOT}\n`);
}

async function sweep(budget: Budget, compute: Compute): Promise<SweepLine[]> {
  const points = sweepPoints(budget);
  const resultOf = await compute(points.flatMap(({ cells }) => cells));
  const lines = points.map((point) => sweepLine(point, point.cells.map(resultOf)));
  console.log(sweepText(lines));
  return lines;
}

/** One line on stderr for each cell, with its progress where somebody watches. */
function computeAll(runner: CellRunner): Compute {
  return async (cells) => {
    const results = new Map<string, CellResult>();
    for (const [index, cell] of cells.entries()) {
      const name = `[${index + 1}/${cells.length}] ${describe(cell)}`;
      const result = await runner.run(cell, (stage, done, of) => {
        if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${stage} ${done}/${of} ${name}`.slice(0, 120));
      });
      process.stderr.write(`${process.stderr.isTTY ? '\r\x1b[K' : ''}${name}: ${result.seconds.toFixed(1)} s\n`);
      results.set(JSON.stringify(cell), result);
    }
    return (cell) => results.get(JSON.stringify(cell)) as CellResult;
  };
}

/** The sweep's seeds: 0 … `count` − 1. */
function withSeeds(budget: Budget, count: string | undefined): Budget {
  if (count === undefined) return budget;
  if (!values.sweep || !/^[1-9]\d{0,2}$/.test(count)) {
    throw new Error(
      `expected --seeds N, 1 … 999, beside --sweep but received ${count}${values.sweep ? '' : ' without --sweep'}`,
    );
  }
  return { ...budget, sweepSeeds: Array.from({ length: Number(count) }, (_, seed) => seed) };
}

function headline(
  { name, windows, generalSteps, batch, seq, sweepSeeds }: Budget,
  domains: Domains,
  model: string,
): string {
  const measure = `perplexity: mean over ${domains.names.length} domains (${domains.names.join(', ')}), first ${windows} windows of ${WINDOW_TOKENS} tokens of each valid text`;
  const warning =
    name === 'quick'
      ? `quick: ${generalSteps} steps of ${batch} × ${seq} tokens show the shape, not what a mask reaches; --full takes hours\n`
      : '';
  return `hardware: ${hardwareLine(hardware())}\n${model}; ${measure}\n${warning}${values.sweep ? `seeds: ${sweepSeeds.join(', ')}` : 'one seed each: differences under 1% mean little'}\n`;
}

function report(budget: Budget, result: object): void {
  if (values.json === undefined) return;
  const content = { hardware: hardware(), budget, ...result };
  writeFileSync(values.json, `${JSON.stringify(content, null, 2)}\n`);
}

function wantedTables(only: readonly string[]): ReadonlySet<string> {
  const ids = only.flatMap((text) => text.split(','));
  const known: readonly string[] = TABLE_IDS;
  const unknown = ids.find((id) => !known.includes(id));
  if (unknown !== undefined) {
    throw new Error(`expected --only to name one of the tables ${TABLE_IDS.join(', ')} but received ${unknown}`);
  }
  return new Set(ids.length > 0 ? ids : TABLE_IDS);
}
