/**
 * A completion shown as it is written, cut off after a number of characters: leaving the loop ends it on the server too.
 *
 *     node dist/clients/examples/stream.js french "La France est" 200
 */
import { connect } from './server.js';

const [task = 'dense', prompt = 'The function returns', most = '200'] = process.argv.slice(2);
let written = 0;

process.stdout.write(prompt);
for await (const { choices } of connect(task).stream({ prompt, max_tokens: 256, temperature: 0.7, seed: 1 })) {
  const text = choices[0]?.text ?? '';
  process.stdout.write(text);
  written += text.length;
  if (written >= Number(most)) break;
}
console.log();
