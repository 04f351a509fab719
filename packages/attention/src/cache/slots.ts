import {
  flatMain,
  ConfigError,
  defineKernel,
  DTypeError,
  expectDType,
  expectInteger,
  expectShape,
  gather,
  grid1d,
  integer,
  schema,
  slice,
  Tensor,
  value,
  type Gpu,
  type Kernel,
} from "@x/kernels";
import type { AttentionPositions } from "../engine/options.js";
import { POSITION_FIELDS } from "./fields.js";

interface StoreVariant {
  readonly from: string;
  readonly to: string;
  /** A second tensor goes along. */
  readonly pair: boolean;
  /** The slots' positions are written too; -1 where a mask hides the row. */
  readonly fills: boolean;
  readonly keyMask: boolean;
}

/** Row s of x goes to slot position % slots; a row whose position does not fit goes nowhere. */
const storeKernel: Kernel<StoreVariant> = defineKernel({
  name: "cacheStore",
  bindings: (v: StoreVariant) => ({
    x: `read ${v.from}` as const,
    ...(v.pair ? { y: `read ${v.from}` as const } : {}),
    positions: "read i32" as const,
    ...(v.keyMask ? { key_mask: "read i32" as const } : {}),
    x_slots: `read_write ${v.to}` as const,
    ...(v.pair ? { y_slots: `read_write ${v.to}` as const } : {}),
    ...(v.fills ? { slot_positions: "read_write i32" as const } : {}),
  }),
  params: { rows: "u32", seq: "u32", slots: "u32", x_width: "u32", y_width: "u32", limit: "i32" },
  wgsl: (v) => /* wgsl */ `
${flatMain("i")}
  let width = max(params.x_width, params.y_width);
  let row = i / width;
  let d = i % width;
  if (row >= params.rows) { return; }
  let position = positions[row];
  if (position < 0 || position >= params.limit) { return; }
  let slot = row / params.seq * params.slots + u32(position) % params.slots;
  if (d < params.x_width) { x_slots[slot * params.x_width + d] = ${v.to}(x[row * params.x_width + d]); }
  ${v.pair ? `if (d < params.y_width) { y_slots[slot * params.y_width + d] = ${v.to}(y[row * params.y_width + d]); }` : ""}
  ${v.fills ? `if (d == 0u) { slot_positions[slot] = ${v.keyMask ? "select(-1, position, key_mask[row] != 0)" : "position"}; }` : ""}
}`,
});

/** Where the tokens of a call stand: a count from the cache's length on, or stated. */
export type TokenPositions =
  | undefined
  /** Position of each token, batch after batch [batch * seq], or of one row [seq]; -1 leaves a token out. */
  | ArrayLike<number>
  /** i32 [batch, seq] on the device: nothing is checked, and a position outside the cache is not stored. */
  | Tensor;

/** What a cache needs to know of rotations, whose frequencies may depend on the length of the text. */
export interface TextRotation {
  /** Tokens of the whole text that the call belongs to; default: counted. */
  readonly textLength?: number | undefined;
  /** Whether a text of `to` tokens is rotated otherwise than one of `from` tokens; default: never. */
  readonly changes?: ((from: number, to: number) => boolean) | undefined;
}

export interface SlotOptions {
  readonly batch: number;
  readonly slots: number;
  /** Positions from here on are refused. */
  readonly maxLength: number;
}

/** Rows [batch, seq, ...] and the slots [batch, slots, ...] that they go to. */
interface SlotRows {
  readonly rows: Tensor;
  readonly slots: Tensor;
}

const ROTATION = schema("rotation", {
  textLength: integer("Tokens of the whole text.", { min: 1, optional: true }),
  changes: value(
    "Whether a text of `to` tokens is rotated otherwise than one of `from` tokens.",
    "a function",
    (given: unknown): given is NonNullable<TextRotation["changes"]> => typeof given === "function",
    { optional: true },
  ),
});

/**
 * Which token lies in which slot of a cache of fixed size: slot = position % slots, so that a cache of maxLength
 * slots keeps everything and a smaller one is a ring. An empty slot has position -1.
 */
export class Slots {
  readonly options: SlotOptions;
  readonly #gpu: Gpu;
  readonly #positions: Tensor;
  readonly #placed: WeakSet<Tensor> = new WeakSet<Tensor>();
  #length: number | undefined = 0;
  #textLength: number | undefined;

  constructor(gpu: Gpu, options: SlotOptions) {
    this.options = options;
    this.#gpu = gpu;
    this.#positions = gpu.keep(gpu.full([options.batch, options.slots], -1, "i32"));
  }

  /** Tokens so far; undefined once positions came from the device. */
  get length(): number | undefined {
    return this.#length;
  }

  /** Length of the text that the tokens so far were rotated for; undefined while there are none. */
  get textLength(): number | undefined {
    return this.#textLength;
  }

  /** Bytes of the slots' positions. */
  get bytes(): number {
    return this.#positions.byteLength;
  }

  get keyPositions(): Tensor {
    return this.#positions;
  }

  /**
   * The positions of the next `seq` tokens as a tensor; a tensor of an earlier call is returned unchanged.
   *
   * @throws ConfigError when they do not fit, and when the tokens so far were rotated for another length of the text
   */
  place(who: string, seq: number, given: TokenPositions, rotation: TextRotation = {}): Tensor {
    const { batch, maxLength } = this.options;
    expectInteger(who, "seq", seq, 0);
    if (given !== undefined) POSITION_FIELDS.positions.check(who, "positions", given);
    ROTATION.read(rotation, `${who}: rotation`);
    if (Tensor.isInstance(given)) {
      if (given.dtype !== "i32") throw new DTypeError(who, `positions are ${given.dtype}; they must be i32`);
      expectShape(who, "positions", given, [batch, seq]);
      if (this.#placed.has(given)) return given;
      this.#textLength = this.#agreedLength(who, undefined, rotation);
      this.#length = undefined;
      return given;
    }
    const start = this.#length;
    if (!given && start === undefined)
      throw new ConfigError(
        who,
        "positions are missing; earlier ones came from the device and were not counted",
      );
    const list = given ?? Int32Array.from({ length: seq }, (_, i) => start! + i);
    if (list.length !== seq && list.length !== batch * seq)
      throw new ConfigError(
        who,
        `positions has ${list.length} entries; it must have ${seq} or ${batch * seq}`,
      );
    let end = start ?? 0;
    for (let i = 0; i < list.length; i++) {
      expectInteger(who, "positions", list[i], -1);
      if (list[i]! >= maxLength)
        throw new ConfigError(
          who,
          `position ${list[i]!} does not fit; the cache holds ${maxLength} tokens (maxLength)`,
        );
      end = Math.max(end, list[i]! + 1);
    }
    this.#expectApart(who, list, seq);
    const textLength = this.#agreedLength(who, end, rotation);
    if (end > 0) this.#textLength = textLength;
    if (this.#length !== undefined) this.#length = end;
    const all = Int32Array.from({ length: batch * seq }, (_, i) => list[i % list.length]!);
    const placed = this.#gpu.tensor(all, [batch, seq], "i32");
    this.#placed.add(placed);
    return placed;
  }

  /**
   * The length of the text with the tokens of a call: as stated, or the largest position so far + 1. `end` is undefined
   * where the positions are on the device.
   */
  #agreedLength(who: string, end: number | undefined, { textLength, changes }: TextRotation): number {
    const { maxLength } = this.options;
    const held = this.#textLength;
    if (textLength !== undefined)
      expectInteger(who, "textLength", textLength, Math.max(end ?? 1, 1), maxLength);
    else if (end === undefined && changes?.(1, maxLength))
      throw new ConfigError(
        who,
        "textLength is missing; the positions are on the device, and these rotations depend on the length of the text",
      );
    // Uncounted positions leave the length as it is: nothing depends on it here.
    const counted = end === undefined ? (held ?? maxLength) : Math.max(end, held ?? 1);
    const length = textLength ?? counted;
    if (held !== undefined && held !== length && changes?.(held, length))
      throw new ConfigError(
        who,
        `the cache holds a text of ${held} tokens, rotated otherwise than one of ${length} tokens; clear the cache and run the whole text again`,
      );
    return length;
  }

  /** Refuse tokens of one call that would take the same slot: the last one written would win by chance. */
  #expectApart(who: string, list: ArrayLike<number>, seq: number): void {
    const { slots } = this.options;
    for (let row = 0; row < list.length; row += seq) {
      // More tokens than slots are stored in pieces.
      const slot = (position: number): number => (seq > slots ? position : position % slots);
      const taken = new Map<number, number>();
      for (let i = row; i < row + seq; i++) {
        const position = list[i]!;
        if (position < 0) continue;
        const other = taken.get(slot(position));
        if (other !== undefined)
          throw new ConfigError(
            who,
            `positions ${other} and ${position} of one row would take the same of ${slots} slots`,
          );
        taken.set(slot(position), position);
      }
    }
  }

  /** Columns start..end of placed positions. */
  part(who: string, positions: Tensor, start: number, end: number): Tensor {
    const { seq } = expectShape(who, "positions", positions, [this.options.batch, "seq"]) as { seq: number };
    expectInteger(who, "end", end, 0, seq);
    expectInteger(who, "start", start, 0, end);
    const cut = slice(positions, { axis: 1, start, end });
    if (this.#placed.has(positions)) this.#placed.add(cut);
    return cut;
  }

  /** Fill slots [batch, slots, ...] with rows [batch, seq, ...] of one or two tensors; one that is masked is hidden. */
  store(positions: Tensor, x: SlotRows, y?: SlotRows, keyMask?: Tensor): void {
    this.#copy(positions, x, y, { fills: true, keyMask });
  }

  /** Copy what belongs to rows that `store` filled slots with. */
  annotate(positions: Tensor, x: SlotRows): void {
    this.#copy(positions, x, undefined, { fills: false, keyMask: undefined });
  }

  #copy(
    positions: Tensor,
    x: SlotRows,
    y: SlotRows | undefined,
    { fills, keyMask }: { readonly fills: boolean; readonly keyMask: Tensor | undefined },
  ): void {
    const { batch, slots, maxLength } = this.options;
    // A row without a position of its own would be written over the slot of another.
    expectShape("cache", "positions", positions, [batch, x.rows.shape[1]!]);
    expectDType("cache", "positions", positions, "i32");
    const rows = x.rows.shape[0]! * x.rows.shape[1]!;
    const width = (t: Tensor | undefined): number => (t && rows > 0 ? t.size / rows : 0);
    const [xWidth, yWidth] = [width(x.rows), width(y?.rows)];
    this.#gpu.run(storeKernel, {
      variant: {
        from: x.rows.dtype,
        to: x.slots.dtype,
        pair: y !== undefined,
        fills,
        keyMask: keyMask !== undefined,
      },
      bindings: {
        x: x.rows,
        positions,
        x_slots: x.slots,
        y: y?.rows,
        y_slots: y?.slots,
        key_mask: keyMask,
        slot_positions: fills ? this.#positions : undefined,
      },
      params: { rows, seq: x.rows.shape[1]!, slots, x_width: xWidth, y_width: yWidth, limit: maxLength },
      workgroups: grid1d(Math.ceil((rows * Math.max(xWidth, yWidth)) / 64)),
    });
  }

  /** Row b of the positions and of `held` [batch, slots, ...] becomes what row rows[b] was; rows i32 [batch]. */
  reorder(who: string, rows: Tensor, held: readonly Tensor[]): void {
    expectShape(who, "rows", rows, [this.options.batch]);
    expectDType(who, "rows", rows, "i32");
    this.#gpu.scope(() => {
      for (const tensor of [this.#positions, ...held]) this.#gpu.copy(gather(tensor, rows), tensor);
    });
  }

  /** What attention over the cache needs to know of positions. */
  positions(who: string, query: Tensor): AttentionPositions {
    expectShape(who, "query", query, [this.options.batch, null]);
    expectDType(who, "query", query, "i32");
    return { query, key: this.#positions, inOrder: true, length: this.options.maxLength };
  }

  clear(): void {
    this.#length = 0;
    this.#textLength = undefined;
    this.#positions.write(new Int32Array(this.#positions.size).fill(-1));
  }

  dispose(): void {
    this.#positions.dispose();
  }
}
