/** Collects the nodes and small constants of a graph; every call adds one node and returns the name of its output. */
import type { Attribute, DataType, OnnxConstant, OnnxNode } from './model-proto.js';

export class GraphBuilder {
  readonly nodes: OnnxNode[] = [];
  private readonly byName = new Map<string, OnnxConstant>();

  get constants(): readonly OnnxConstant[] {
    return [...this.byName.values()];
  }

  /** A node with one output, called `output` or after the node. */
  node(
    type: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, Attribute>> = {},
    output?: string,
  ): string {
    const name = `${type}_${this.nodes.length}`;
    this.nodes.push({ type, name, inputs, outputs: [output ?? name], attributes });
    return output ?? name;
  }

  /** Cuts `input` into two equal halves along its last axis. */
  halves(input: string): [string, string] {
    const name = `Split_${this.nodes.length}`;
    const outputs: [string, string] = [`${name}_low`, `${name}_high`];
    this.nodes.push({ type: 'Split', name, inputs: [input], outputs, attributes: { axis: { int: -1 } } });
    return outputs;
  }

  /** Integers: a list, or a single number without dimensions. */
  integers(values: number | readonly number[]): string {
    return typeof values === 'number'
      ? this.constant('int64', [], [values])
      : this.constant('int64', [values.length], values);
  }

  /** One fp32 number without dimensions. */
  float(value: number): string {
    return this.constant('float', [], [value]);
  }

  /** The same constant is stored once. */
  constant(type: DataType, shape: readonly number[], values: readonly number[]): string {
    const short = values.length <= 4 ? values.join('_') : `list_${this.byName.size}`;
    const name = `${type}${shape.map((length) => `_${length}`).join('')}_is_${short}`;
    if (!this.byName.has(name)) this.byName.set(name, { name, type, shape, values });
    return name;
  }
}
