const seq = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** A statement for each of n numbers. */
export const each = (n: number, statement: (i: number) => string): string =>
  seq(n).map(statement).join("\n  ");

/** A vec4f of four scalar expressions. */
export const vec4f = (component: (i: number) => string): string =>
  `vec4f(${seq(4).map(component).join(", ")})`;
