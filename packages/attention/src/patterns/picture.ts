import { checkConfig, expectInteger } from "@x/kernels";

export interface PictureOptions {
  /** Which head; default 0. */
  readonly head?: number;
  /** Side of the kernels' blocks to draw, [rows, columns]; none by default. */
  readonly blocks?: readonly [number, number];
  /** Line above the picture. */
  readonly title?: string;
}

interface Size {
  readonly queries: number;
  readonly keys: number;
  readonly queryOffset: number;
}

type Sees = (head: number, i: number, j: number) => boolean;

function check(options: PictureOptions): void {
  checkConfig("pattern picture", options, ["head", "blocks", "title"]);
  expectInteger("pattern picture", "head", options.head ?? 0, 0);
}

/** A line for each query, "■" where it sees a key. */
export function textPicture(sees: Sees, size: Size, options: PictureOptions): string {
  check(options);
  const { queries, keys, queryOffset } = size;
  const lines = Array.from({ length: queries }, (_, i) =>
    Array.from({ length: keys }, (_, j) => (sees(options.head ?? 0, i + queryOffset, j) ? "■" : "·")).join(
      " ",
    ),
  );
  return [...(options.title ? [options.title] : []), ...lines].join("\n");
}

/** Cells of 8 units; a query's visible neighbours join into one rectangle. */
export function svgPicture(sees: Sees, size: Size, options: PictureOptions): string {
  check(options);
  const { queries, keys, queryOffset } = size;
  const { head = 0, blocks, title } = options;
  const [cell, top] = [8, title ? 20 : 0];
  const [width, height] = [keys * cell, queries * cell];
  const cells: string[] = [];
  const visited: string[] = [];
  for (let i = 0; i < queries; i++)
    for (let j = 0; j < keys; j++) {
      if (!sees(head, i + queryOffset, j)) continue;
      const from = j;
      while (j + 1 < keys && sees(head, i + queryOffset, j + 1)) j++;
      cells.push(
        `M${from * cell} ${top + i * cell}h${(j + 1 - from) * cell}v${cell}h-${(j + 1 - from) * cell}z`,
      );
    }
  if (blocks) {
    const [rows, columns] = blocks;
    for (let r = 0; r < queries; r += rows)
      for (let c = 0; c < keys; c += columns) {
        const [h, w] = [Math.min(rows, queries - r), Math.min(columns, keys - c)];
        let any = false;
        for (let i = r; i < r + h && !any; i++)
          for (let j = c; j < c + w && !any; j++) any = sees(head, i + queryOffset, j);
        if (any) visited.push(`M${c * cell} ${top + r * cell}h${w * cell}v${h * cell}h-${w * cell}z`);
      }
  }
  const text = (s: string): string => s.replace(/[<&>]/g, (c) => `&#${c.charCodeAt(0)};`);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1 -1 ${width + 2} ${top + height + 2}" width="${width + 2}" height="${top + height + 2}">`,
    ...(title
      ? [`<text x="0" y="14" font-family="sans-serif" font-size="13" fill="#555">${text(title)}</text>`]
      : []),
    `<rect x="0" y="${top}" width="${width}" height="${height}" fill="#f3f3f3"/>`,
    ...(visited.length > 0 ? [`<path d="${visited.join("")}" fill="#cfe0f5"/>`] : []),
    `<path d="${cells.join("")}" fill="#2f6db3"/>`,
    `<rect x="0" y="${top}" width="${width}" height="${height}" fill="none" stroke="#999"/>`,
    "</svg>",
    "",
  ].join("\n");
}
