import js from "@eslint/js";
import { defineConfig, globalIgnores } from "eslint/config";
import tseslint from "typescript-eslint";

const topics = ["positional", "norm", "attention", "ffn", "moe"];

export default defineConfig(
  globalIgnores([
    "**/dist/**",
    "**/node_modules/**",
    "tooling/fixtures/**",
    "tooling/bench/results/**",
    "**/vitest.config.ts",
    "vitest.shared.ts",
  ]),
  js.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: {
      parserOptions: {
        projectService: true,
      },
    },
    rules: {
      "@typescript-eslint/no-floating-promises": "error",
      // `void tensor.storage` asks for the getter's check.
      "@typescript-eslint/no-meaningless-void-operator": "off",
      // Numeric code indexes typed arrays and shapes all the time; the tests guard what the compiler cannot see.
      "@typescript-eslint/no-non-null-assertion": "off",
      "@typescript-eslint/restrict-template-expressions": [
        "error",
        { allowNumber: true, allowBoolean: true },
      ],
      "no-restricted-syntax": [
        "error",
        { selector: "ExportDefaultDeclaration", message: "Use named exports." },
        {
          selector: "Program > ExpressionStatement > AwaitExpression",
          message: "No top-level await in libraries.",
        },
      ],
    },
  },
  // Arrows point one way: apps -> topic packages -> kernels; topic packages do not know each other.
  ...["kernels", ...topics, "tokenizer"].map((name) => ({
    files: [`packages/${name}/src/**/*.ts`],
    rules: {
      "no-restricted-imports": [
        "error",
        {
          patterns: [
            {
              regex:
                name === "kernels" || name === "tokenizer" ? "^@x/(?!testing)" : "^@x/(?!kernels$|testing$)",
            },
          ],
        },
      ],
    },
  })),
  {
    files: ["**/*.mjs", "**/*.js"],
    languageOptions: {
      globals: {
        process: "readonly",
        console: "readonly",
        performance: "readonly",
        URL: "readonly",
        setTimeout: "readonly",
        fetch: "readonly",
        Buffer: "readonly",
      },
    },
  },
);
