import { e, elementwise, type Expr, type Tensor } from "@x/kernels";

/** The log-sum-exp that the kernels give, 3e38 where a row sees nothing, with -inf there instead. */
export const emptyRows: (lse: Tensor, none: number) => Tensor = elementwise(
  "lse",
  ["lse", "none"],
  (lse, none) => e.select(e.lt(1e38, lse), none, lse),
);

/** A log-sum-exp that may be subtracted from another: -inf - (-inf) is NaN. */
export const finite = (lse: Expr): Expr => e.max(lse, -1e30);
