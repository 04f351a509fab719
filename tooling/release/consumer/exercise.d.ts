import { type OpenDeviceOptions } from "@x/kernels";
/** Largest relative error of what was compared, by package. */
export type Errors = Record<string, number>;
/** Run everything on one device. */
export declare function exercise(options?: OpenDeviceOptions): Promise<Errors>;
//# sourceMappingURL=exercise.d.ts.map