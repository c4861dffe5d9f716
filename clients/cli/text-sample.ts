/** Text to send: of more than a run will read, a sample, so that a whole disk of it does not go over the wire. */
import { Random, shuffled } from '../../server/engine/random.js';
import type { MaskTrainingSettings, TrainSource } from '../../server/trainer/types.js';

/** Characters of a token, at the most that usual text has, and times the tokens that a run draws: the trainer reads no more (run-text.ts). */
const CHARACTERS_A_TOKEN = 8;
const DRAWS = 4;
/** Of each source, however short the run: enough to hold some of it out. */
const LEAST_CHARACTERS = 8 << 20;
/** Of all together: in UTF-8 less than what a server takes unless told otherwise. */
const MOST_CHARACTERS = 64 << 20;

/** Documents drawn at random, seeded, until a source has as many characters as the run can use. */
export function sampled(sources: readonly TrainSource[], settings: MaskTrainingSettings): TrainSource[] {
  const { steps, batch, seq, seed } = settings;
  const tokens = Math.ceil((steps * batch * seq) / Math.max(1, sources.length));
  const useful = Math.max(LEAST_CHARACTERS, tokens * CHARACTERS_A_TOKEN * DRAWS);
  const most = Math.min(useful, MOST_CHARACTERS / sources.length);
  return sources.map(({ name, documents }) => ({ name, documents: draw(documents, most, new Random(seed)) }));
}

export function charactersOf(sources: readonly TrainSource[]): number {
  return sources.reduce((sum, { documents }) => sum + documents.reduce((all, text) => all + text.length, 0), 0);
}

function draw(documents: readonly string[], most: number, random: Random): readonly string[] {
  const all = documents.reduce((sum, text) => sum + text.length, 0);
  if (all <= most) return documents;
  const drawn: string[] = [];
  let length = 0;
  for (const document of shuffled(documents, random)) {
    if (length >= most) break;
    drawn.push(document);
    length += document.length;
  }
  return drawn;
}
