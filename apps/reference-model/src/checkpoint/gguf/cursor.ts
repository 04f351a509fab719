import { FormatError } from "@x/kernels";
import type { ByteSource } from "@x/kernels/safetensors";

/** Bytes that are read from the file at once. */
const PIECE = 2 ** 20;

/**
 * Reads little-endian numbers and strings one after the other from a file, in pieces. What goes beyond the file's end,
 * or beyond `limit` bytes, is refused before memory is taken for it.
 */
export class Cursor {
  readonly file: string;
  readonly size: number;
  readonly #source: ByteSource;
  readonly #limit: number;
  #bytes: Uint8Array = new Uint8Array(0);
  #view: DataView = new DataView(this.#bytes.buffer);
  /** Where `#bytes` begins in the file, and the next byte in `#bytes`. */
  #begin = 0;
  #next = 0;

  constructor(file: string, source: ByteSource, limit: number) {
    this.file = file;
    this.size = source.size;
    this.#source = source;
    this.#limit = limit;
  }

  /** Position in the file. */
  get at(): number {
    return this.#begin + this.#next;
  }

  fail(message: string): never {
    throw new FormatError(this.file, message);
  }

  /** Refuse `what` if that many bytes do not follow. */
  expect(count: number, what: string): void {
    if (this.at + count > this.size)
      this.fail(
        `${what} takes ${count} bytes at byte ${this.at}, but the file has ${this.size} in all; it is truncated or no GGUF file`,
      );
    if (this.at + count > this.#limit)
      this.fail(`${what} ends at byte ${this.at + count}; a header of at most ${this.#limit} is accepted`);
  }

  /** Whether `count` bytes are in memory, so that a number can be taken without waiting. */
  holds(count: number): boolean {
    return this.#next + count <= this.#bytes.length;
  }

  /** Have the next `count` bytes in memory. */
  async fill(count: number, what: string): Promise<void> {
    if (this.holds(count)) return;
    this.expect(count, what);
    const { at } = this;
    const bytes = await this.#source.read(at, Math.min(this.size, at + Math.max(count, PIECE)));
    if (bytes.length < count) this.fail(`${what}: the file ended early`);
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#begin = at;
    this.#next = 0;
  }

  /** The next `count` bytes, which `fill` has put into memory, and a view of them. */
  take(count: number): { bytes: Uint8Array; view: DataView; at: number } {
    const at = this.#next;
    this.#next += count;
    return { bytes: this.#bytes.subarray(at, at + count), view: this.#view, at };
  }

  async u32(what: string): Promise<number> {
    await this.fill(4, what);
    const { view, at } = this.take(4);
    return view.getUint32(at, true);
  }

  async u64(what: string): Promise<bigint> {
    await this.fill(8, what);
    const { view, at } = this.take(8);
    return view.getBigUint64(at, true);
  }

  /** A count or a length; it is compared with what the file can hold by the caller. */
  async count(what: string): Promise<number> {
    const value = await this.u64(what);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) this.fail(`${what} is ${value}, more than any file holds`);
    return Number(value);
  }

  /** The bytes of a string: eight bytes of length, then as many. */
  async string(what: string): Promise<Uint8Array> {
    // Numbers of a vocabulary's size are read here, so nothing is awaited that is in memory.
    if (!this.holds(8)) await this.fill(8, what);
    const { view, at } = this.take(8);
    const length = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
    this.expect(length, what);
    if (!this.holds(length)) await this.fill(length, what);
    return this.take(length).bytes;
  }
}
