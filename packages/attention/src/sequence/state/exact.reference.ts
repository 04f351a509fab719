import type { Complex } from "./complex.reference.js";

/** A scalar on a `Tape`. */
export interface Scalar {
  readonly index: number;
  readonly value: number;
  /** Sum of the absolute values of the terms that the value is the sum of. */
  readonly size: number;
}

export type ComplexScalar = readonly [re: Scalar, im: Scalar];

/** The slope by an operand, and the size of its terms. */
type Term = readonly [of: Scalar, slope: number, size: number];

/**
 * Scalars in float64 with their derivatives, by reverse mode: an oracle for gradients that differences cannot give, since
 * they are 0 or far from the size of the others. Beside each derivative stands the sum of the absolute values of the terms
 * that make it up, which is what rounding is relative to: it is 0 exactly where no term is left.
 */
export class Tape {
  readonly #terms: (readonly Term[])[] = [];

  #push(value: number, size: number, ...terms: Term[]): Scalar {
    this.#terms.push(terms.filter((term) => term[2] !== 0));
    return { index: this.#terms.length - 1, value, size };
  }

  variable(value: number): Scalar {
    return this.#push(value, Math.abs(value));
  }

  add(...xs: Scalar[]): Scalar {
    return this.#push(
      xs.reduce((sum, x) => sum + x.value, 0),
      xs.reduce((sum, x) => sum + x.size, 0),
      ...xs.map((x): Term => [x, 1, 1]),
    );
  }

  mul(a: Scalar, b: Scalar): Scalar {
    return this.#push(a.value * b.value, a.size * b.size, [a, b.value, b.size], [b, a.value, a.size]);
  }

  scale(a: Scalar, by: number): Scalar {
    return this.#push(a.value * by, a.size * Math.abs(by), [a, by, Math.abs(by)]);
  }

  /** A function whose slope is given by itself, so that it keeps its precision. */
  map(a: Scalar, f: (x: number) => number, slope: (x: number) => number): Scalar {
    const by = slope(a.value);
    return this.#push(f(a.value), Math.abs(f(a.value)), [a, by, Math.abs(by)]);
  }

  exp(a: Scalar): Scalar {
    return this.map(a, Math.exp, Math.exp);
  }

  div(a: Scalar, b: Scalar): Scalar {
    return this.mul(
      a,
      this.map(
        b,
        (x) => 1 / x,
        (x) => -1 / (x * x),
      ),
    );
  }

  sigmoid(a: Scalar): Scalar {
    return this.map(a, sigmoid, (x) => sigmoid(x) * sigmoid(-x));
  }

  softplus(a: Scalar): Scalar {
    return this.map(a, (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))), sigmoid);
  }

  /** A function of a complex number that has a complex derivative. */
  holomorphic(z: ComplexScalar, f: (z: Complex) => Complex, slope: (z: Complex) => Complex): ComplexScalar {
    const at: Complex = [z[0].value, z[1].value];
    const [value, by] = [f(at), slope(at)];
    const [size, bySize] = [Math.hypot(...value), Math.hypot(...by)];
    return [
      this.#push(value[0], size, [z[0], by[0], bySize], [z[1], -by[1], bySize]),
      this.#push(value[1], size, [z[0], by[1], bySize], [z[1], by[0], bySize]),
    ];
  }

  cadd(...xs: ComplexScalar[]): ComplexScalar {
    return [this.add(...xs.map((x) => x[0])), this.add(...xs.map((x) => x[1]))];
  }

  cmul(a: ComplexScalar, b: ComplexScalar): ComplexScalar {
    return [
      this.add(this.mul(a[0], b[0]), this.scale(this.mul(a[1], b[1]), -1)),
      this.add(this.mul(a[0], b[1]), this.mul(a[1], b[0])),
    ];
  }

  /** Derivatives of the sum of weight x output, and the sums of their terms' absolute values. */
  gradients(
    outputs: readonly Scalar[],
    weights: ArrayLike<number>,
  ): { slope: Float64Array; size: Float64Array } {
    const slope = new Float64Array(this.#terms.length);
    const size = new Float64Array(this.#terms.length);
    outputs.forEach(({ index }, i) => {
      slope[index]! += weights[i]!;
      size[index]! += Math.abs(weights[i]!);
    });
    for (let i = this.#terms.length - 1; i >= 0; i--)
      if (size[i] !== 0)
        for (const [{ index }, by, bySize] of this.#terms[i]!) {
          slope[index]! += slope[i]! * by;
          size[index]! += size[i]! * bySize;
        }
    return { slope, size };
  }
}

function sigmoid(x: number): number {
  const t = Math.exp(-Math.abs(x));
  return (x < 0 ? t : 1) / (1 + t);
}
