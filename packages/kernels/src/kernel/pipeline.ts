import type { CompileLanes } from "./compile_lanes.js";
import { SHADER_STAGE_COMPUTE } from "../base/constants.js";
import { ConfigError, GpuValidationError } from "../base/errors.js";
import {
  resolveBindings,
  resolveParams,
  shaderText,
  variantKey,
  type Kernel,
  type KernelEnvironment,
  type KernelSource,
  type ParamLayout,
  type ResolvedBinding,
} from "./kernel.js";

/** A kernel's variant on one device: layouts at once, the pipeline when the implementation has compiled it. */
export interface PipelineEntry {
  readonly id: number;
  readonly name: string;
  readonly bindings: readonly ResolvedBinding[];
  readonly params: ParamLayout;
  readonly layout: GPUBindGroupLayout;
  pipeline: GPUComputePipeline | undefined;
  /** Settles when compiled or refused; never rejects (a refusal is in `failure`). */
  readonly ready: Promise<void>;
  failure: GpuValidationError | undefined;
}

function numbered(text: string, around: number): string {
  return text
    .split("\n")
    .map((line, i) => `${String(i + 1).padStart(4)}  ${line}`)
    .slice(Math.max(0, around - 4), around + 3)
    .join("\n");
}

/** The variants of one kernel: by their text, and at once by the object that was given last time. */
interface Variants {
  readonly byKey: Map<string, PipelineEntry>;
  readonly byObject: WeakMap<object, PipelineEntry>;
}

/** Creates pipelines asynchronously, once per kernel and variant. */
export class PipelineCache {
  readonly #device: GPUDevice;
  readonly #environment: KernelEnvironment;
  readonly #lanes: CompileLanes | undefined;
  readonly #entries: Map<unknown, Variants> = new Map<unknown, Variants>();
  readonly #pending: Set<PipelineEntry> = new Set<PipelineEntry>();
  #count = 0;

  constructor(device: GPUDevice, environment: KernelEnvironment, lanes?: CompileLanes) {
    this.#device = device;
    this.#lanes = lanes;
    this.#environment = environment;
  }

  /** Pipelines being compiled. */
  get pending(): ReadonlySet<PipelineEntry> {
    return this.#pending;
  }

  /** Pipelines created so far. */
  get size(): number {
    return this.#count;
  }

  get<V>(kernel: Kernel<V>, variant: V): PipelineEntry {
    let variants = this.#entries.get(kernel);
    if (!variants) {
      variants = { byKey: new Map<string, PipelineEntry>(), byObject: new WeakMap<object, PipelineEntry>() };
      this.#entries.set(kernel, variants);
    }
    const object = typeof variant === "object" && variant !== null ? variant : undefined;
    let entry = object && variants.byObject.get(object);
    if (entry) return entry;
    const key = variantKey(variant);
    entry = variants.byKey.get(key);
    if (!entry) variants.byKey.set(key, (entry = this.#create(kernel.source, variant)));
    if (object) variants.byObject.set(object, entry);
    return entry;
  }

  #create<V>(source: KernelSource<V>, variant: V): PipelineEntry {
    const device = this.#device;
    const bindings = resolveBindings(source, variant);
    const params = resolveParams(source, variant);
    const key = variantKey(variant);
    const label = source.name;
    const limit = device.limits.maxStorageBuffersPerShaderStage;
    if (bindings.length > limit)
      throw new ConfigError(
        source.name,
        `binds ${String(bindings.length)} tensors (${bindings.map((b) => b.name).join(", ")}); this device allows ${String(limit)} in a kernel`,
      );
    const text = shaderText(source, variant, this.#environment, bindings, params);
    const entries: GPUBindGroupLayoutEntry[] = bindings.map((b, index) => ({
      binding: index + 1,
      visibility: SHADER_STAGE_COMPUTE,
      buffer: { type: b.access === "read" ? "read-only-storage" : "storage" },
    }));
    if (params.words > 0) {
      entries.push({
        binding: 0,
        visibility: SHADER_STAGE_COMPUTE,
        buffer: { type: "uniform", hasDynamicOffset: true, minBindingSize: params.words * 4 },
      });
    }
    const layout = device.createBindGroupLayout({ label, entries });
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ label, code: text });
    const compiled = device.createComputePipelineAsync({
      label,
      layout: device.createPipelineLayout({ label, bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: "main" },
    });
    const refused = device.popErrorScope();
    const touched = this.#lanes?.compile({ label, code: text, entries, layout, pipeline: compiled });
    const settle = async (): Promise<void> => {
      try {
        const pipeline = await compiled;
        await touched;
        entry.pipeline = pipeline;
        await refused;
      } catch (cause) {
        const info = await module.getCompilationInfo().catch(() => undefined);
        const messages = (info?.messages ?? [])
          .filter((m) => m.type === "error")
          .slice(0, 3)
          .map(
            (m) =>
              `line ${String(m.lineNum)}:${String(m.linePos)}: ${m.message}\n${numbered(text, m.lineNum)}`,
          );
        const reason =
          messages.length > 0 ? messages.join("\n") : String(cause instanceof Error ? cause.message : cause);
        const which = key.length > 120 ? `${key.slice(0, 120)}…` : key;
        entry.failure = new GpuValidationError(
          label,
          `the shader was refused: ${reason}${which && `\n(variant ${which})`}`,
          { cause },
        );
        await refused.catch(() => null);
      } finally {
        this.#pending.delete(entry);
      }
    };
    const entry: PipelineEntry = {
      id: this.#count++,
      name: source.name,
      bindings,
      params,
      layout,
      pipeline: undefined,
      failure: undefined,
      ready: Promise.resolve(),
    };
    this.#pending.add(entry);
    (entry as { ready: Promise<void> }).ready = settle();
    return entry;
  }
}
