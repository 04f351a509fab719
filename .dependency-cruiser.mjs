/**
 * The law of the imports, beside eslint's rule of the packages: no two files need each other's values, and no two folders
 * need each other, types included. `npm run arrows` checks it. The folders of kernels still do: a tensor's type names its
 * device, whose type names tensors.
 *
 * @type {import("dependency-cruiser").IConfiguration}
 */
export default {
  forbidden: [
    {
      name: "no-value-circle",
      comment: "Two files that need each other's values have no order in which they can be loaded or read.",
      severity: "error",
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
    {
      name: "no-folder-circle",
      comment: "Two folders that need each other are one folder.",
      severity: "error",
      scope: "folder",
      from: { pathNot: "^packages/kernels/" },
      to: { circular: true },
    },
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.base.json" },
    exclude: { path: ["\\.test(-d)?\\.ts$", "test-support\\.ts$", "/dist/"] },
    doNotFollow: { path: "node_modules" },
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["@x/source", "import", "types"] },
  },
};
