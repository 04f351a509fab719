import { svgLine, svgPicture, svgText, svgTextWidth } from "@x/kernels";

type Points = readonly (readonly [step: number, loss: number])[];

const [WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM] = [720, 400, 78, 36, 20, 48];

/** The mean of neighbouring steps, at about 400 of them. */
function smoothed(points: Points): [number, number][] {
  const window = Math.max(1, Math.floor(points.length / 60));
  const every = Math.max(1, Math.floor(points.length / 400));
  return points.flatMap(([step], i) => {
    if (i % every !== 0) return [];
    const part = points.slice(Math.max(0, i - window), i + window + 1);
    return [[step, part.reduce((sum, [, l]) => sum + l, 0) / part.length] as [number, number]];
  });
}

/** A loss curve as SVG: training loss (smoothed over its pale points) and validation loss by step. */
export function lossCurve(training: Points, validation: Points): string {
  const all = [...training, ...validation];
  const maxStep = Math.max(1, ...all.map(([step]) => step));
  const losses = all.map(([, loss]) => loss);
  const high = Math.max(1e-3, ...losses);
  const low = Math.max(1e-6, Math.min(high, ...losses)) * 0.9;
  const x = (step: number): number => LEFT + ((WIDTH - LEFT - RIGHT) * step) / maxStep;
  // Losses fall over orders of magnitude: a logarithmic axis.
  const span = Math.log(high) - Math.log(low);
  const y = (loss: number): number =>
    TOP + ((HEIGHT - TOP - BOTTOM) * (Math.log(high) - Math.log(Math.max(low, loss)))) / span;
  const place = (points: Points): [number, number][] => points.map(([step, loss]) => [x(step), y(loss)]);
  const ticks = Array.from({ length: 6 }, (_, i) => Math.exp(Math.log(low) + (span * i) / 5));
  const steps = [...new Set(Array.from({ length: 6 }, (_, i) => Math.round((maxStep * i) / 5)))];
  const [first, second] = ["training loss", "validation loss"];
  return svgPicture(WIDTH, HEIGHT, "training and validation loss by step", [
    svgText(LEFT, 22, first, { colour: "first", bold: true }),
    svgText(LEFT + svgTextWidth(first, 12) + 24, 22, second, { colour: "second", bold: true }),
    ...ticks.flatMap((t) => [
      svgLine(
        [
          [LEFT, y(t)],
          [WIDTH - RIGHT, y(t)],
        ],
        { stroke: "grid" },
      ),
      svgText(LEFT - 6, y(t) + 4, t < 0.01 ? t.toExponential(1) : t.toPrecision(3), { anchor: "end" }),
    ]),
    ...steps.map((s) => svgText(x(s), HEIGHT - BOTTOM + 18, String(s), { anchor: "middle" })),
    svgLine(place(training), { stroke: "first", opacity: 0.25 }),
    svgLine(place(smoothed(training)), { stroke: "first", width: 2 }),
    ...(validation.length > 0 ? [svgLine(place(validation), { stroke: "second", width: 2 })] : []),
    svgText((WIDTH + LEFT - RIGHT) / 2, HEIGHT - 8, "step of the optimizer", { anchor: "middle" }),
    svgText(18, (HEIGHT + TOP - BOTTOM) / 2, "loss in nats per token (logarithmic)", {
      anchor: "middle",
      upwards: true,
    }),
  ]);
}
