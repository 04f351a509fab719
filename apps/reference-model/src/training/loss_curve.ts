/** A loss curve as SVG: training loss (smoothed over its pale points) and validation loss by step. */
export function lossCurve(
  training: readonly (readonly [number, number])[],
  validation: readonly (readonly [number, number])[],
): string {
  const [width, height, left, top, right, bottom] = [720, 400, 56, 24, 16, 44];
  const all = [...training, ...validation];
  const maxStep = Math.max(1, ...all.map(([step]) => step));
  const losses = all.map(([, loss]) => loss);
  const high = Math.max(1e-3, ...losses);
  const low = Math.min(high, ...losses, high) * 0.9;
  const x = (step: number): number => left + ((width - left - right) * step) / maxStep;
  // Losses fall over orders of magnitude: a logarithmic axis.
  const span = Math.log(high) - Math.log(low) || 1;
  const y = (loss: number): number =>
    top + ((height - top - bottom) * (Math.log(high) - Math.log(loss))) / span;
  const path = (points: readonly (readonly [number, number])[]): string =>
    points.map(([s, l], i) => `${i === 0 ? "M" : "L"}${x(s).toFixed(1)} ${y(l).toFixed(1)}`).join("");
  const window = Math.max(1, Math.floor(training.length / 60));
  const smooth = training.flatMap(([step], i) => {
    if (i % Math.max(1, Math.floor(training.length / 400)) !== 0) return [];
    const part = training.slice(Math.max(0, i - window), i + window + 1);
    return [[step, part.reduce((sum, [, l]) => sum + l, 0) / part.length] as const];
  });
  const ticks = Array.from({ length: 6 }, (_, i) => Math.exp(Math.log(low) + (span * i) / 5));
  const steps = Array.from({ length: 6 }, (_, i) => Math.round((maxStep * i) / 5));
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">
<rect width="${width}" height="${height}" fill="white"/>
${ticks.map((t) => `<path d="M${left} ${y(t).toFixed(1)}H${width - right}" stroke="#ddd"/><text x="${left - 6}" y="${(y(t) + 4).toFixed(1)}" text-anchor="end">${t.toFixed(2)}</text>`).join("\n")}
${steps.map((s) => `<text x="${x(s).toFixed(1)}" y="${height - bottom + 18}" text-anchor="middle">${s}</text>`).join("\n")}
<path d="${path(training)}" fill="none" stroke="#1f77b4" stroke-opacity="0.2"/>
<path d="${path(smooth)}" fill="none" stroke="#1f77b4" stroke-width="2"/>
${validation.length > 0 ? `<path d="${path(validation)}" fill="none" stroke="#d62728" stroke-width="2"/>` : ""}
<text x="${(width + left) / 2}" y="${height - 8}" text-anchor="middle">step</text>
<text x="${width - right - 4}" y="${top + 4}" text-anchor="end"><tspan fill="#1f77b4">training loss</tspan>  <tspan fill="#d62728">validation loss</tspan></text>
</svg>
`;
}
