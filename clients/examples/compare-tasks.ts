/**
 * The same prompt under every task that the server has: one frozen model, another mask each.
 *
 *     node dist/clients/examples/compare-tasks.js "The"
 */
import { connect } from './server.js';

const [prompt = 'The'] = process.argv.slice(2);
const client = connect();

const tasks = [...new Set((await client.models()).map((model) => model.task))];
const answers = await Promise.all(
  tasks.map((task) => client.complete({ task, prompt, max_tokens: 24, temperature: 0 })),
);
for (const { task, choices } of answers) console.log(`${task.padEnd(16)} ${JSON.stringify(choices[0]?.text)}`);
