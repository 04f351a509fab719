import { svgPicture, svgRect, svgText, svgTextWidth } from "@x/kernels";
import { percent, type ExpertReport, type LayerRouting } from "./report.js";

const [CELL, ROW, BARS, TEXT] = [30, 16, 60, 11];
const TITLE = "load of each expert, and the share of a token class that goes to it";

type Classes = ExpertReport["classes"];

/** Sizes of one layer's panel: the names of classes stand left of the cells. */
interface Panel {
  readonly left: number;
  readonly width: number;
  readonly height: number;
}

function panelOf(report: ExpertReport): Panel {
  const names = [...report.classes.map(({ name }) => name), "share of choices"];
  const left = Math.max(...names.map((name) => svgTextWidth(name, TEXT))) + 14;
  const experts = Math.max(...report.layers.map((layer) => layer.numExperts));
  const titles = report.layers.map((layer) => svgTextWidth(layer.name, 12) * 1.1 + 20);
  return {
    left,
    width: Math.max(left + Math.max(experts * CELL, svgTextWidth("expert", TEXT)) + 12, ...titles),
    height: 24 + BARS + report.classes.length * ROW + 46,
  };
}

function panel(layer: LayerRouting, classes: Classes, size: Panel, x: number, y: number): string[] {
  const [left, bars] = [x + size.left, y + 24];
  const parts = [
    svgText(x + 8, y + 14, layer.name, { bold: true }),
    svgText(left - 6, bars + BARS, "share of choices", { size: TEXT, anchor: "end" }),
  ];
  const highest = Math.max(...layer.load, Number.MIN_VALUE);
  layer.load.forEach((share, e) => {
    const [at, h] = [left + e * CELL, (BARS - 14) * (share / highest)];
    const title = `expert ${e}: ${percent(share)}`;
    parts.push(
      svgRect(at + 2, bars + BARS - h, CELL - 4, h, { fill: "first", title }),
      svgText(at + CELL / 2, bars + BARS - h - 3, percent(share), { size: 9, anchor: "middle" }),
    );
  });
  const rows = bars + BARS + 4;
  classes.forEach(({ name, tokens }, i) => {
    const top = rows + i * ROW;
    parts.push(svgText(left - 6, top + 12, name, { size: TEXT, anchor: "end" }));
    layer.typeShare[i]!.forEach((share, e) => {
      const title = `${name} (${tokens} tokens), expert ${e}: ${percent(share)}`;
      const [at, w, h] = [left + e * CELL, CELL - 1, ROW - 1];
      parts.push(
        svgRect(at, top, w, h, { fill: "field", title }),
        svgRect(at, top, w, h, { fill: "second", opacity: share, title }),
      );
    });
  });
  const bottom = rows + classes.length * ROW + 12;
  layer.load.forEach((_, e) => {
    parts.push(svgText(left + e * CELL + CELL / 2, bottom, String(e), { size: 9, anchor: "middle" }));
  });
  return [
    ...parts,
    svgText(left + (layer.numExperts * CELL) / 2, bottom + 14, "expert", { size: TEXT, anchor: "middle" }),
  ];
}

/** What the depth of red means. */
function legend(x: number, y: number): string[] {
  const label = "share of a class's choices: 0 %";
  const start = x + svgTextWidth(label, TEXT) + 4;
  return [
    svgText(x, y + 11, label, { size: TEXT }),
    ...Array.from({ length: 11 }, (_, i) =>
      svgRect(start + i * 12, y, 12, 14, { fill: "second", opacity: i / 10 }),
    ),
    svgRect(start, y, 132, 14, { stroke: "grid" }),
    svgText(start + 138, y + 11, "100 %", { size: TEXT }),
  ];
}

/**
 * The report as SVG: for each layer a bar of load for each expert above a map of what share of a class it takes. The
 * layers stand in as many columns as make the picture about as wide as a page.
 */
export function expertSvg(report: ExpertReport): string {
  const size = panelOf(report);
  const { layers, classes } = report;
  // 4:3 or the nearest to it.
  const shape = (columns: number): number =>
    Math.abs(Math.log((columns * size.width) / (Math.ceil(layers.length / columns) * size.height) / (4 / 3)));
  const columns = layers.map((_, i) => i + 1).sort((a, b) => shape(a) - shape(b) || a - b)[0] ?? 1;
  const head = 56;
  const label = "share of a class's choices: 0 % 100 %";
  const width = Math.max(
    columns * size.width + 8,
    svgTextWidth(TITLE, 13) + 16,
    svgTextWidth(label, TEXT) + 160,
  );
  const height = head + Math.ceil(layers.length / columns) * size.height;
  return svgPicture(width, height, TITLE, [
    svgText(8, 20, TITLE, { size: 13 }),
    ...legend(8, 30),
    ...layers.flatMap((layer, i) =>
      panel(layer, classes, size, (i % columns) * size.width, head + Math.floor(i / columns) * size.height),
    ),
  ]);
}
