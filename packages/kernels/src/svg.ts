/**
 * Parts of SVG pictures: every picture of this repository is made of these. A picture has a background of its own, and
 * its colours follow the reader's colour scheme, so that it is readable on any page.
 */
import { ConfigError } from "./base/errors.js";

/** What each colour is in light and in dark mode. */
const COLOURS = {
  paper: ["#ffffff", "#0d1117"],
  ink: ["#1f2328", "#e6edf3"],
  grid: ["#d0d7de", "#3d444d"],
  field: ["#f0f2f4", "#1c2128"],
  area: ["#c5dcf5", "#1f3b5c"],
  first: ["#1f5fa8", "#6cb0f5"],
  second: ["#c23b22", "#ff8f73"],
} as const;

/** The name of a colour of pictures. */
export type SvgColour = keyof typeof COLOURS;

const NAMES = Object.keys(COLOURS) as SvgColour[];
const rules = (scheme: 0 | 1): string =>
  NAMES.map((name) => {
    const colour = COLOURS[name][scheme];
    return `.f-${name}{fill:${colour}}.s-${name}{stroke:${colour}}`;
  }).join("");
const STYLE = `${rules(0)}@media (prefers-color-scheme:dark){${rules(1)}}`;

/** Text as it stands between tags or in an attribute. */
const escape = (text: string): string => text.replace(/[<&>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** A coordinate with one digit after the point; a picture has no use for more. */
const at = (x: number): string => {
  if (!Number.isFinite(x)) throw new ConfigError("svg", `a coordinate is ${x}; it must be finite`);
  return String(Math.round(x * 10) / 10);
};

/**
 * Width of a text in sans-serif letters of a size, in units of the picture: an upper bound over the usual fonts, so that
 * what is given this room is not cut off.
 */
export function svgTextWidth(text: string, size: number): number {
  let ems = 0;
  for (const c of text) {
    if (/[ijlI.,:;'|![\]() ]/.test(c)) ems += 0.42;
    else if (/[a-z0-9\-_=/<>+]/.test(c)) ems += /[mw]/.test(c) ? 0.98 : 0.66;
    else ems += c.codePointAt(0)! > 0x2000 || /[@%MW]/.test(c) ? 1.05 : 0.8;
  }
  return ems * size;
}

export interface SvgTextOptions {
  /** Height of the letters; default 12. */
  readonly size?: number;
  /** Which point of the text stands at x; default "start". */
  readonly anchor?: "start" | "middle" | "end";
  /** Default "ink". */
  readonly colour?: SvgColour;
  readonly bold?: boolean;
  /** From the bottom upwards, as the label of a vertical axis. */
  readonly upwards?: boolean;
}

/** A line of text whose baseline is at y. */
export function svgText(x: number, y: number, text: string, options: SvgTextOptions = {}): string {
  const { size = 12, anchor = "start", colour = "ink", bold = false, upwards = false } = options;
  const turned = upwards ? ` transform="rotate(-90 ${at(x)} ${at(y)})"` : "";
  const weight = bold ? ' font-weight="bold"' : "";
  return `<text x="${at(x)}" y="${at(y)}" font-size="${size}" text-anchor="${anchor}"${weight}${turned} class="f-${colour}">${escape(text)}</text>`;
}

export interface SvgShapeOptions {
  readonly fill?: SvgColour;
  readonly stroke?: SvgColour;
  /** Width of the stroke; default 1. */
  readonly width?: number;
  /** Of the fill and the stroke, from 0 to 1; default 1. */
  readonly opacity?: number;
  /** Shown where the pointer rests. */
  readonly title?: string;
}

function shape(tag: string, { fill, stroke, width = 1, opacity = 1, title }: SvgShapeOptions): string {
  const classes = [...(fill ? [`f-${fill}`] : []), ...(stroke ? [`s-${stroke}`] : [])].join(" ");
  const lines = stroke && width !== 1 ? ` stroke-width="${width}"` : "";
  const pale = opacity < 1 ? ` opacity="${Math.round(opacity * 1000) / 1000}"` : "";
  const rest = `${fill ? "" : ' fill="none"'}${lines}${pale} class="${classes}"`;
  return title === undefined
    ? `<${tag}${rest}/>`
    : `<${tag}${rest}><title>${escape(title)}</title></${tag.split(" ")[0]!}>`;
}

/** A rectangle with its upper left corner at x, y. */
export const svgRect = (
  x: number,
  y: number,
  width: number,
  height: number,
  options: SvgShapeOptions,
): string => shape(`rect x="${at(x)}" y="${at(y)}" width="${at(width)}" height="${at(height)}"`, options);

/** A path of SVG's own commands. */
export const svgPath = (commands: string, options: SvgShapeOptions): string =>
  shape(`path d="${commands}"`, options);

/** A line through points. */
export const svgLine = (points: readonly (readonly [number, number])[], options: SvgShapeOptions): string =>
  svgPath(points.map(([x, y], i) => `${i === 0 ? "M" : "L"}${at(x)} ${at(y)}`).join(""), options);

/** A whole picture of parts, with `label` for readers who do not see it. */
export function svgPicture(width: number, height: number, label: string, parts: readonly string[]): string {
  const [w, h] = [Math.ceil(width), Math.ceil(height)];
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${w} ${h}" width="${w}" height="${h}" font-family="sans-serif" role="img" aria-label="${escape(label)}">`,
    `<style>${STYLE}</style>`,
    svgRect(0, 0, w, h, { fill: "paper" }),
    ...parts,
    "</svg>",
    "",
  ].join("\n");
}
