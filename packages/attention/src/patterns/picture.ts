import {
  integer,
  schema,
  text,
  value,
  type Config,
  svgPath,
  svgPicture,
  svgRect,
  svgText,
  svgTextWidth,
} from "@x/kernels";

const isSides = (given: unknown): given is readonly [number, number] =>
  Array.isArray(given) && given.length === 2 && given.every((n) => Number.isInteger(n) && n > 0);
const PICTURE = schema("pattern picture", {
  head: integer("Head.", { min: 0, default: 0 }),
  blocks: value("Sides of the blocks to draw, [rows, columns].", "two integers >= 1", isSides, {
    optional: true,
  }),
  title: text("Line above the picture.", { optional: true }),
});
export type PictureOptions = Config<typeof PICTURE>;

interface Size {
  readonly queries: number;
  readonly keys: number;
  readonly queryOffset: number;
}

type Sees = (head: number, i: number, j: number) => boolean;

/** A line for each query, "■" where it sees a key. */
export function textPicture(sees: Sees, size: Size, options: PictureOptions): string {
  const { head, title } = PICTURE.read(options);
  const { queries, keys, queryOffset } = size;
  const lines = Array.from({ length: queries }, (_, i) =>
    Array.from({ length: keys }, (_, j) => (sees(head, i + queryOffset, j) ? "■" : "·")).join(" "),
  );
  return [...(title ? [title] : []), ...lines].join("\n");
}

const CELL = 8;
/** Heights of a title's and of a label's letters. */
const [TITLE, LABEL] = [13, 11];

type Span = readonly [from: number, to: number];

/** Rectangles of cells as one path. */
const rectangles = (
  left: number,
  top: number,
  cells: readonly (readonly [rows: Span, columns: Span])[],
): string =>
  cells
    .map(([[r0, r1], [c0, c1]]) => {
      const [width, height] = [(c1 - c0) * CELL, (r1 - r0) * CELL];
      return `M${left + c0 * CELL} ${top + r0 * CELL}h${width}v${height}h-${width}z`;
    })
    .join("");

/** Cells of 8 units, queries downwards and keys to the right; a query's visible neighbours join into one rectangle. */
export function patternSvg(sees: Sees, size: Size, options: PictureOptions): string {
  const { head, blocks, title } = PICTURE.read(options);
  const { queries, keys, queryOffset } = size;
  const [width, height] = [keys * CELL, queries * CELL];
  const cells: [Span, Span][] = [];
  const visited: [Span, Span][] = [];
  for (let i = 0; i < queries; i++)
    for (let j = 0; j < keys; j++) {
      if (!sees(head, i + queryOffset, j)) continue;
      const from = j;
      while (j + 1 < keys && sees(head, i + queryOffset, j + 1)) j++;
      cells.push([
        [i, i + 1],
        [from, j + 1],
      ]);
    }
  if (blocks) {
    const [rows, columns] = blocks;
    for (let r = 0; r < queries; r += rows)
      for (let c = 0; c < keys; c += columns) {
        const [h, w] = [Math.min(rows, queries - r), Math.min(columns, keys - c)];
        let any = false;
        for (let i = r; i < r + h && !any; i++)
          for (let j = c; j < c + w && !any; j++) any = sees(head, i + queryOffset, j);
        if (any)
          visited.push([
            [r, r + h],
            [c, c + w],
          ]);
      }
  }
  const name = title ?? "attention pattern";
  const [keyLabel, queryLabel] = [
    `key, 0 to ${keys - 1}`,
    `query, ${queryOffset} to ${queryOffset + queries - 1}`,
  ];
  const [left, top] = [LABEL + 12, title ? TITLE + 14 : 6];
  // What is longer than the cells gets the room that it needs.
  const right = Math.max(
    left + width + 6,
    left + svgTextWidth(keyLabel, LABEL) + 6,
    title ? left + svgTextWidth(title, TITLE) + 6 : 0,
  );
  const bottom = top + Math.max(height, svgTextWidth(queryLabel, LABEL));
  return svgPicture(right, bottom + LABEL + 10, name, [
    ...(title ? [svgText(left, TITLE + 4, title, { size: TITLE })] : []),
    svgRect(left, top, width, height, { fill: "field" }),
    ...(visited.length > 0 ? [svgPath(rectangles(left, top, visited), { fill: "area" })] : []),
    ...(cells.length > 0 ? [svgPath(rectangles(left, top, cells), { fill: "first" })] : []),
    svgRect(left, top, width, height, { stroke: "grid" }),
    svgText(left - 7, bottom, queryLabel, { size: LABEL, upwards: true }),
    svgText(left, bottom + LABEL + 4, keyLabel, { size: LABEL }),
  ]);
}
