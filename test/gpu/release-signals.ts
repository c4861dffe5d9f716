/** What recorded.test.ts and its other thread tell each other: places of an Int32Array, and what is at STATE. */

/** 1: memory is to be given back. */
export const BEGIN = 0;
export const STATE = 1;
export const GIVING_BACK = 1;
export const GIVEN_BACK = 2;
