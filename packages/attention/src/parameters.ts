export {
  checkParameters,
  initParameters,
  matrix,
  ones,
  prefixed as under,
  zeros,
  type Draw,
  type InitOptions,
  type ParameterPlan as Plan,
  type PlannedParameter as ParameterPlan,
} from "@x/kernels";
