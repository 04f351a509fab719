import type { Gpu, Tensor } from "@x/kernels";
import type { Loose, ValidCall, ValidCalls } from "./probe.js";

/** A function with the arguments that it takes. */
export const valid = (call: unknown, ...given: unknown[]): ValidCall => ({ call: call as Loose, given });

/** A class with the arguments that its constructor takes. */
export const construct = (made: unknown, ...given: unknown[]): ValidCall =>
  valid((...args: unknown[]) => new (made as new (...args: unknown[]) => unknown)(...args), ...given);

const bound = (method: unknown, owner: unknown): Loose => (method as Loose).bind(owner);

/** A method of what `make` makes, with the arguments that it takes. */
export const method =
  <T extends object>(
    make: (gpu: Gpu) => T,
    name: keyof T & string,
    given: (gpu: Gpu) => unknown[] = () => [],
  ) =>
  (gpu: Gpu): ValidCall => {
    const one = make(gpu);
    return valid(bound(one[name], one), ...given(gpu));
  };

type Made = Readonly<Record<string, unknown>> & {
  parameters(): Record<string, Tensor>;
  buffers(): Record<string, Tensor>;
};

/** A component class: how it is planned and made, and what its methods take. */
export function component(
  made: { readonly name: string; readonly init: unknown; readonly plan: unknown },
  config: object,
  /** "drawn": those that `init` draws. */
  parameters: ((gpu: Gpu) => object) | "drawn",
  methods: Readonly<Record<string, (gpu: Gpu) => unknown[]>>,
  { parts, open = {} }: { readonly parts?: (gpu: Gpu) => unknown; readonly open?: ValidCall["open"] } = {},
): ValidCalls {
  const make = (gpu: Gpu): Made => bound(made.init, made)(gpu, config) as Made;
  const drawn = (gpu: Gpu): object => {
    const one = make(gpu);
    return { ...one.parameters(), ...one.buffers() };
  };
  return {
    [made.name]: (gpu) =>
      construct(
        made,
        config,
        parameters === "drawn" ? drawn(gpu) : parameters(gpu),
        ...(parts === undefined ? [] : [parts(gpu)]),
      ),
    [`${made.name}.plan`]: () => valid(bound(made.plan, made), config),
    ...Object.fromEntries(
      Object.entries(methods).map(([method, given]) => [
        `${made.name}.${method}`,
        (gpu: Gpu): ValidCall => {
          const one = make(gpu);
          return { ...valid(bound(one[method], one), ...given(gpu)), open };
        },
      ]),
    ),
  };
}
