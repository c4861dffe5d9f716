/** The order of a container's tensors, as coded and as models use them, and the chunks of each. */
import type { Container } from './container.js';
import type { MaskSet } from './mask-set.js';

/**
 * Index as shown → index as coded. Inherited tensors are shown in the parent's order, which models use them in; coded they are sorted by name.
 */
export function presentationOrder({ tensors, header }: Container, parent: MaskSet | undefined): number[] {
  if (tensors === undefined) return [];
  if (!header.inherits || parent === undefined) return [...tensors.keys()];
  const coded = new Map(tensors.map(({ name }, i) => [name, i]));
  return parent.masks.map(({ name }) => coded.get(name) as number);
}

/** The chunks that hold symbols of a tensor, by index as coded. */
export function chunksByTensor({ tensors = [], plans = [] }: Container): number[][] {
  const chunks: number[][] = tensors.map(() => []);
  plans.forEach((plan, chunk) => {
    if (plan.kind === 'arithmetic') chunks[plan.piece.tensor]!.push(chunk);
    if (plan.kind === 'dense') for (const { tensor } of plan.pieces) chunks[tensor]!.push(chunk);
    if (plan.kind === 'patch') for (const tensor of plan.tensors) chunks[tensor]!.push(chunk);
  });
  return chunks;
}
