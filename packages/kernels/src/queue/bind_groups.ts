import type { DispatchCommand } from "./command.js";

const LIMIT = 4096;

/** Bind groups by layout and buffers; the oldest go when there are too many. */
export class BindGroupCache {
  readonly #device: GPUDevice;
  readonly #uniforms: GPUBuffer;
  readonly #groups: Map<string, GPUBindGroup> = new Map<string, GPUBindGroup>();

  /** `uniforms`: the buffer that every kernel takes its parameters from, at a dynamic offset. */
  constructor(device: GPUDevice, uniforms: GPUBuffer) {
    this.#device = device;
    this.#uniforms = uniforms;
  }

  get size(): number {
    return this.#groups.size;
  }

  get({ entry, ranges }: DispatchCommand): GPUBindGroup {
    let key = String(entry.id);
    for (const range of ranges)
      key += `,${String(range.storage.id)}:${String(range.offset)}:${String(range.size)}`;
    let group = this.#groups.get(key);
    if (group) return group;
    const entries: GPUBindGroupEntry[] = ranges.map(({ storage, offset, size }, i) => ({
      binding: i + 1,
      resource: { buffer: storage.buffer, offset, size },
    }));
    if (entry.params.words > 0)
      entries.push({
        binding: 0,
        resource: { buffer: this.#uniforms, offset: 0, size: entry.params.words * 4 },
      });
    group = this.#device.createBindGroup({ label: entry.name, layout: entry.layout, entries });
    if (this.#groups.size >= LIMIT) {
      let drop = LIMIT / 4;
      for (const old of this.#groups.keys()) {
        if (drop-- <= 0) break;
        this.#groups.delete(old);
      }
    }
    this.#groups.set(key, group);
    return group;
  }

  clear(): void {
    this.#groups.clear();
  }
}
