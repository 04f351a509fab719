export { renormalizeWeights, router, type RouterOptions, type RouterResult } from "./router.js";
export {
  mixExperts,
  type ExpertActivation,
  type Experts,
  type GatedExperts,
  type PlainExperts,
} from "./experts.js";
export { loadBalanceLoss, routerZLoss, type LoadBalanceOptions, type LoadBalanceResult } from "./losses.js";
export { MixtralMoe, mixtralMoe, type MixtralMoeConfig, type MoeResult } from "./mixtral.js";
