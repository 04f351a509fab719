import { Component } from "@x/kernels";
import * as attention from "@x/attention";
import * as ffn from "@x/ffn";
import * as moe from "@x/moe";
import * as norm from "@x/norm";
import * as positional from "@x/positional";
import { useGpu } from "@x/testing";
import { describe, expect, it } from "vitest";
import { contractFaults } from "./contract.js";
import { CONTRACT } from "./table.js";

const PACKAGES: Readonly<Record<string, object>> = {
  "@x/norm": norm,
  "@x/ffn": ffn,
  "@x/moe": moe,
  "@x/positional": positional,
  "@x/attention": attention,
};

/** The component classes that a package exports. */
const classesOf = (exported: object): string[] =>
  Object.entries(exported)
    .filter(
      ([, value]) => typeof value === "function" && Reflect.get(value, "prototype") instanceof Component,
    )
    .map(([name]) => name);

describe.each(Object.entries(PACKAGES))("the components of %s", (name, exported) => {
  const device = useGpu();

  it("all stand in the table", () => {
    expect([...new Set(CONTRACT[name]!.map(({ of }) => of.name))].sort()).toEqual(classesOf(exported).sort());
  });

  it.each(CONTRACT[name]!.map((c) => [`${c.of.name} ${JSON.stringify(c.config)}`, c] as const))(
    "%s keeps the contract",
    async (_, c) => {
      expect(await contractFaults(device.gpu, c)).toEqual([]);
    },
  );
});
