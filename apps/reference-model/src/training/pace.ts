/** Steps per second. The first step of a process compiles the kernels, and says nothing of the others. */
export class Pace {
  #steps = 0;
  #seconds = 0;

  async measure<T>(step: () => Promise<T>): Promise<T> {
    const start = performance.now();
    const result = await step();
    if (this.#steps++ > 0) this.#seconds += (performance.now() - start) / 1000;
    return result;
  }

  /** Steps per second; undefined until there is a second step. */
  get rate(): number | undefined {
    return this.#steps > 1 ? (this.#steps - 1) / this.#seconds : undefined;
  }
}
