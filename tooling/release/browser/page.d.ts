import { type CaseReport } from "@x/conformance";
import { type Errors } from "../consumer/exercise.js";
export interface Page {
    describe(): Promise<{
        name: string;
        subgroups: boolean;
        sizes: readonly [number, number];
    }>;
    exercise(features: {
        subgroups: boolean;
    }): Promise<Errors>;
    golden(features: {
        subgroups: boolean;
    }, filter: string): Promise<CaseReport[]>;
}
//# sourceMappingURL=page.d.ts.map