/**
 * One completion by a task's mask.
 *
 *     node dist/clients/examples/complete.js french "La France est"
 */
import { connect } from './server.js';

const [task = 'dense', prompt = 'The function returns'] = process.argv.slice(2);
const client = connect(task);

const completion = await client.complete({ prompt, max_tokens: 32, temperature: 0 });
console.log(prompt + (completion.choices[0]?.text ?? ''));
console.log(`(${completion.task}, mask ${completion.maskDigest ?? 'none'}, ${completion.usage.total_tokens} tokens)`);
