/** What the second decoder makes of a container. */

export interface SimpleTensor {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly symbols: number[];
}

export interface SimpleContainer {
  readonly n: number;
  readonly m: number;
  readonly base: string;
  readonly content: string;
  readonly parent: string | undefined;
  readonly tensors: SimpleTensor[];
}

/** What a container may need besides its bytes. */
export interface SimpleContext {
  readonly parent?: SimpleContainer;
  readonly weights?: (name: string) => Uint16Array | undefined;
}
