import { existsSync } from "node:fs";
import { join } from "node:path";
import { ConfigError } from "@x/kernels";
import { median } from "../measure/timing.js";
import type { Implementation } from "./implementation.js";
import type { Row } from "./run.js";

const WORKER = "tooling/bench/dist/comparison/worker.js";

/**
 * Another build of this project, that of the checkout in `folder`.
 *
 * @throws ConfigError if the checkout is not built
 */
export function otherBuild(folder: string): Implementation {
  const script = join(folder, WORKER);
  if (!existsSync(script))
    throw new ConfigError(
      "--against",
      `${folder} has no ${WORKER}; it must be a checkout of this repository after npm run build`,
    );
  return { name: folder, webgpu: true, script, args: [] };
}

/** How the time of a row changed against another build. */
export interface Change {
  readonly row: string;
  /** Median over the rounds of our time divided by the other's of the same round. */
  readonly ratio: number;
  /** A ratio within 1 ± noise may be chance. */
  readonly noise: number;
}

/** Ratios below this distance from 1 are not told apart, however steady the rounds are. */
const LEAST_NOISE = 0.03;

/**
 * Rows measured in both builds with their change, the slowest first. The builds take turns, so that a round's ratio is
 * free of what the machine does meanwhile; the noise is twice the median distance of the rounds' ratios from their
 * median, and at least 3 %. Rows of one round, such as cold starts, have no noise to compare with and are left out.
 */
export function changes(rows: readonly Row[], own: Implementation, other: Implementation): Change[] {
  return rows
    .flatMap((row) => {
      const [mine, theirs] = [row.results[own.name], row.results[other.name]];
      if (mine?.status !== "ok" || theirs?.status !== "ok" || mine.rounds.length < 2) return [];
      const ratios = mine.rounds.map((time, round) => time / theirs.rounds[round]!);
      const ratio = median(ratios);
      const noise = Math.max(LEAST_NOISE, 2 * median(ratios.map((each) => Math.abs(each - ratio))));
      return [{ row: row.name, ratio, noise }];
    })
    .sort((a, b) => b.ratio - a.ratio);
}

export const fell = ({ ratio, noise }: Change): boolean => ratio > 1 + noise;

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

/** The rows that fell by more than the noise, and a line that counts the others. */
export function showChanges(all: readonly Change[], other: Implementation): string {
  const [slower, faster] = [all.filter(fell), all.filter(({ ratio, noise }) => ratio < 1 - noise)];
  const line = ({ row, ratio, noise }: Change): string =>
    `  ${row}: ${ratio.toFixed(2)} times the time (noise ${percent(noise)})`;
  return [
    `against ${other.name}: ${slower.length} of ${all.length} rows fell by more than the noise`,
    ...slower.map(line),
    ...(faster.length === 0 ? [] : ["faster by more than the noise:", ...faster.map(line)]),
  ].join("\n");
}
