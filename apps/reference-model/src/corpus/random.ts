/** Deterministic random numbers on the host: mulberry32 over a hashed seed. */
export class HostRandom {
  #state: number;

  constructor(...seeds: readonly number[]) {
    let h = 0x9e3779b9;
    for (const seed of seeds) {
      h = Math.imul(h ^ (seed >>> 0), 0x85ebca6b);
      h = Math.imul(h ^ Math.floor(seed / 2 ** 32), 0xc2b2ae35);
      h ^= h >>> 15;
    }
    this.#state = h >>> 0;
  }

  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** Integer in 0..n-1. */
  int(n: number): number {
    return Math.floor(this.next() * n);
  }

  pick<T>(list: readonly T[]): T {
    return list[this.int(list.length)]!;
  }
}
