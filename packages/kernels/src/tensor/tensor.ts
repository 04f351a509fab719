/// <reference lib="esnext.disposable" preserve="true" />
import { decode, isStoredType, BYTES_PER_ELEMENT, type DType, type HostArray } from "../base/dtype.js";
import { DisposedError, ShapeError } from "../base/errors.js";
import type { Gpu } from "../device/gpu.js";
import { release, retain } from "../memory/memory.js";
import { encodeAs } from "../stored/encode.js";
import { checkBlocks, storedBytes } from "../stored/forms.js";
import { unpack } from "../stored/pack.js";
import type { Scope } from "../memory/scope.js";
import type { Storage } from "../memory/storage.js";
import { applyOp } from "./tape.js";
import { checkShape, expectList, showShape, sizeOf, TENSOR_BRAND } from "../base/validate.js";

/**
 * A row-major, contiguous array on the GPU. It owns a share of a buffer until `dispose()` or until the scope in
 * which it was made ends; reading back is the only thing that waits.
 */
export class Tensor {
  readonly gpu: Gpu;
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** Number of elements. */
  readonly size: number;
  readonly #storage: Storage;
  #scope: Scope | undefined;
  #holds = 0;
  #disposed = false;
  #freed = false;

  /** Tensors are made by `gpu.tensor`, `gpu.empty` and ops. @internal */
  constructor(gpu: Gpu, storage: Storage, shape: readonly number[], dtype: DType, scope: Scope | undefined) {
    this.gpu = gpu;
    this.shape = Object.freeze([...shape]);
    this.dtype = dtype;
    this.size = sizeOf(shape);
    this.#storage = storage;
    this.#scope = scope;
    scope?.adopt(this);
  }

  static {
    Object.defineProperty(this.prototype, TENSOR_BRAND, { value: true });
  }

  /** True for a tensor of any loaded copy of the package. */
  static readonly isInstance = (value: unknown): value is Tensor =>
    typeof value === "object" && value !== null && TENSOR_BRAND in value;

  get rank(): number {
    return this.shape.length;
  }

  /** Bytes of the contents (the buffer behind may be larger). */
  get byteLength(): number {
    return isStoredType(this.dtype)
      ? storedBytes(this.dtype, this.size)
      : this.size * BYTES_PER_ELEMENT[this.dtype];
  }

  /**
   * True where the elements are only stored: bf16 and quantised forms, and f16 on a device without shader-f16. Such a
   * tensor is a constant; a few ops take it as weights and widen it in registers.
   */
  get stored(): boolean {
    return isStoredType(this.dtype) || (this.dtype === "f16" && !this.gpu.features.f16);
  }

  /** True once the caller may no longer use it. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** The buffer behind the tensor, for use together with other WebGPU code on the same device. */
  get buffer(): GPUBuffer {
    return this.storage.buffer;
  }

  /** @internal */
  get storage(): Storage {
    if (this.#freed)
      throw new DisposedError(
        "tensor",
        `a tensor of shape ${showShape(this.shape)} was used after it was freed`,
      );
    return this.#storage;
  }

  /** The same elements under another shape; shares the buffer. One extent may be -1. */
  reshape(shape: readonly number[]): Tensor {
    expectList("reshape", "shape", shape, "extents");
    const resolved = this.#resolve(shape);
    checkBlocks("reshape", this.dtype, resolved);
    return applyOp({
      name: "reshape",
      stored: true,
      inputs: [this],
      forward: () => ({ outputs: [this.alias(resolved)] }),
      backward: ({ grads }) => [grads[0]?.alias(this.shape)],
    })[0] as Tensor;
  }

  #resolve(shape: readonly number[]): readonly number[] {
    const open = shape.indexOf(-1);
    if (open < 0) {
      checkShape("reshape", shape);
      if (sizeOf(shape) !== this.size) {
        throw new ShapeError(
          "reshape",
          `${showShape(this.shape)} has ${String(this.size)} elements, ${showShape(shape)} has ${String(sizeOf(shape))}`,
        );
      }
      return shape;
    }
    const rest = sizeOf(shape.filter((_, i) => i !== open));
    if (rest <= 0 || this.size % rest !== 0) {
      throw new ShapeError("reshape", `${showShape(this.shape)} does not fit ${showShape(shape)}`);
    }
    const resolved = [...shape];
    resolved[open] = this.size / rest;
    checkShape("reshape", resolved);
    return resolved;
  }

  /** Another tensor on the same buffer, outside the tape. @internal */
  alias(shape: readonly number[], dtype: DType = this.dtype): Tensor {
    const storage = this.storage;
    retain(storage);
    return new Tensor(this.gpu, storage, shape, dtype, this.gpu.currentScope);
  }

  /** Wait for the queued work and copy the contents to the host. f16 and forms that are only stored become float32. */
  async read(): Promise<HostArray> {
    const bytes = await this.gpu.readBytes(this.storage, this.byteLength);
    return isStoredType(this.dtype)
      ? unpack(this.dtype, new Uint8Array(bytes), this.size)
      : decode(bytes, this.dtype, this.size);
  }

  /** The value of a tensor of one element. */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new ShapeError("item", `shape is ${showShape(this.shape)}; it must have one element`);
    return (await this.read())[0] ?? NaN;
  }

  /**
   * Overwrite the contents, in the order of the queued commands. Inside a recording only what was made there may be
   * written: the data would be frozen, and each replay would write them again.
   *
   * @throws ShapeError, ConfigError; DTypeError for an element that the dtype does not hold.
   */
  write(data: ArrayLike<number>): void {
    const bytes = encodeAs("write", data, this.dtype);
    if (data.length !== this.size) {
      throw new ShapeError(
        "write",
        `given ${String(data.length)} numbers; shape ${showShape(this.shape)} takes ${String(this.size)}`,
      );
    }
    this.gpu.writeBytes(this.storage, bytes);
  }

  /** Free the tensor. What the tape or a recording still needs stays until they are done. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#scope?.forget(this);
    this.#scope = undefined;
    if (this.#holds === 0) this.#free();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #free(): void {
    this.#freed = true;
    release(this.#storage);
  }

  /** Keep the contents although the caller may dispose the handle. @internal */
  hold(): void {
    void this.storage;
    this.#holds++;
  }

  /** @internal */
  unhold(): void {
    this.#holds--;
    if (this.#holds === 0 && this.#disposed && !this.#freed) this.#free();
  }

  /** Move to another scope, or to the caller's own care. @internal */
  moveTo(scope: Scope | undefined): void {
    this.#scope?.forget(this);
    this.#scope = scope;
    scope?.adopt(this);
  }

  /** @internal */
  get scope(): Scope | undefined {
    return this.#scope;
  }
}
