/** `maskctl sensitivity`: how much each layer's mask hurts alone (MaskLLM's Figure 7), which says what to keep dense. */
import type { Command } from 'commander';
import type { GlobalOptions } from '../global-options.js';
import { integer } from '../numbers.js';
import { printJson, printTable } from '../output.js';
import { withProgress } from '../progress.js';
import type { LayerScore, LayerScoreOptions } from '../layer-scores.js';
import { parentOption } from '../mask-family.js';
import { addTextOptions } from '../text-options.js';
import { relative } from '../training-report.js';

export function addSensitivity(program: Command): void {
  const command = program
    .command('sensitivity')
    .summary('perplexity with one layer masked at a time')
    .description(
      'Score texts with the mask of one layer at a time, all others dense (MaskLLM, Figure 7). Layers that hurt most are the ones to keep dense ("train --keep-dense").',
    )
    .option('--task <name>', 'the mask that comes with the model under this name', 'general')
    .option('--mask <file>', 'this mask file')
    .requiredOption('--data <glob...>', 'text: files, folders or globs; each is scored alike')
    .option('--windows <n>', 'windows to score, of each text', integer(1), 8);
  command.addOption(parentOption('--task or --mask'));
  addTextOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (_options: object, command: Command) => {
      const options = command.optsWithGlobals<LayerScoreOptions & GlobalOptions>();
      const { scoreLayers } = await import('../layer-scores.js');
      const scores = await withProgress('scoring', (progress) => scoreLayers(options, progress));
      if (options.json) printJson(scores);
      else printForPeople(scores);
    });
}

const EXAMPLES = `
Examples:
  $ maskctl sensitivity --data french.jsonl english.jsonl
  $ maskctl sensitivity --model models/smollm2 --mask general.mask --data README.md --json`;

function printForPeople(scores: readonly LayerScore[]): void {
  const dense = scores.find(({ layer }) => layer === 'none')?.ppl ?? NaN;
  printTable(
    ['MASKED', 'PPL', 'AGAINST DENSE'],
    scores.map(({ layer, ppl }) => [
      NAMES[layer] ?? layer,
      ppl.toFixed(2),
      layer === 'none' ? '' : relative(ppl, dense),
    ]),
    ['PPL', 'AGAINST DENSE'],
  );
}

const NAMES: Readonly<Record<string, string>> = { none: 'nothing (dense)', all: 'all layers' };
