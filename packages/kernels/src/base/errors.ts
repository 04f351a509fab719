/**
 * The errors of `@x/kernels`. Each class has a stable `code`; `isInstance` recognises an error by a global
 * symbol, so the check works even when two copies of the package are loaded.
 */

const BRAND = Symbol.for("x.kernels.error");

/** Stable identifiers of the failures that a caller can act on. */
export type KernelsErrorCode =
  | "KERNELS"
  | "ADAPTER_NOT_FOUND"
  | "DEVICE_LOST"
  | "GPU_VALIDATION"
  | "OUT_OF_MEMORY"
  | "SHAPE"
  | "DTYPE"
  | "CONFIG"
  | "DISPOSED"
  | "DUPLICATE_PACKAGE"
  | "FORMAT";

function hasCode(value: unknown, code: KernelsErrorCode): boolean {
  if (typeof value !== "object" || value === null) return false;
  const codes = (value as Record<symbol, unknown>)[BRAND];
  return Array.isArray(codes) && codes.includes(code);
}

/** Name a class of errors by text that a minifier leaves alone; the name also heads the stack. */
function named(prototype: Error, name: string): void {
  Object.defineProperty(prototype, "name", { value: name, configurable: true, writable: true });
}

/** Base of every error of this project's GPU packages. `who` is the op or kernel that failed. */
export class KernelsError extends Error {
  readonly code: KernelsErrorCode = "KERNELS";
  readonly who: string;

  constructor(who: string, message: string, options?: ErrorOptions) {
    super(`${who}: ${message}`, options);
    this.who = who;
  }

  static {
    named(this.prototype, "KernelsError");
    Object.defineProperty(this.prototype, BRAND, {
      get(this: KernelsError): readonly KernelsErrorCode[] {
        return ["KERNELS", this.code];
      },
    });
  }

  static isInstance(value: unknown): value is KernelsError {
    return hasCode(value, "KERNELS");
  }
}

/** No WebGPU adapter could be opened; the message says what to install on this platform. */
export class AdapterNotFoundError extends KernelsError {
  static {
    named(this.prototype, "AdapterNotFoundError");
  }
  override readonly code = "ADAPTER_NOT_FOUND";
  static override isInstance(value: unknown): value is AdapterNotFoundError {
    return hasCode(value, "ADAPTER_NOT_FOUND");
  }
}

/** The GPU device is gone (driver reset, removal, or `destroy()`); open a new one with `openDevice()`. */
export class DeviceLostError extends KernelsError {
  static {
    named(this.prototype, "DeviceLostError");
  }
  override readonly code = "DEVICE_LOST";
  readonly reason: "unknown" | "destroyed";
  constructor(who: string, message: string, reason: "unknown" | "destroyed" = "unknown") {
    super(who, message);
    this.reason = reason;
  }
  static override isInstance(value: unknown): value is DeviceLostError {
    return hasCode(value, "DEVICE_LOST");
  }
}

/** The implementation refused a shader or a command; the message holds its report and the kernel's name. */
export class GpuValidationError extends KernelsError {
  static {
    named(this.prototype, "GpuValidationError");
  }
  override readonly code = "GPU_VALIDATION";
  static override isInstance(value: unknown): value is GpuValidationError {
    return hasCode(value, "GPU_VALIDATION");
  }
}

/** An allocation exceeded the memory budget or a limit of the device, or was refused by it. */
export class OutOfMemoryError extends KernelsError {
  static {
    named(this.prototype, "OutOfMemoryError");
  }
  override readonly code = "OUT_OF_MEMORY";
  /** Bytes that were asked for. */
  readonly requested: number;
  constructor(who: string, message: string, requested: number, options?: ErrorOptions) {
    super(who, message, options);
    this.requested = requested;
  }
  static override isInstance(value: unknown): value is OutOfMemoryError {
    return hasCode(value, "OUT_OF_MEMORY");
  }
}

/** A tensor has the wrong rank or extent. */
export class ShapeError extends KernelsError {
  static {
    named(this.prototype, "ShapeError");
  }
  override readonly code = "SHAPE";
  static override isInstance(value: unknown): value is ShapeError {
    return hasCode(value, "SHAPE");
  }
}

/** A tensor has the wrong element type. */
export class DTypeError extends KernelsError {
  static {
    named(this.prototype, "DTypeError");
  }
  override readonly code = "DTYPE";
  static override isInstance(value: unknown): value is DTypeError {
    return hasCode(value, "DTYPE");
  }
}

/** A configuration or argument has an unknown key or a value that the rule forbids. */
export class ConfigError extends KernelsError {
  static {
    named(this.prototype, "ConfigError");
  }
  override readonly code = "CONFIG";
  static override isInstance(value: unknown): value is ConfigError {
    return hasCode(value, "CONFIG");
  }
}

/** A tensor or recording was used after it had been freed. */
export class DisposedError extends KernelsError {
  static {
    named(this.prototype, "DisposedError");
  }
  override readonly code = "DISPOSED";
  static override isInstance(value: unknown): value is DisposedError {
    return hasCode(value, "DISPOSED");
  }
}

/** Two incompatible copies of `@x/kernels` are loaded in one program. */
export class DuplicatePackageError extends KernelsError {
  static {
    named(this.prototype, "DuplicatePackageError");
  }
  override readonly code = "DUPLICATE_PACKAGE";
  static override isInstance(value: unknown): value is DuplicatePackageError {
    return hasCode(value, "DUPLICATE_PACKAGE");
  }
}

/** A file is not what it claims to be: the message names the file, the place in it and the reason. */
export class FormatError extends KernelsError {
  static {
    named(this.prototype, "FormatError");
  }
  override readonly code = "FORMAT";
  static override isInstance(value: unknown): value is FormatError {
    return hasCode(value, "FORMAT");
  }
}
