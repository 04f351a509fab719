export { renormalizeWeights, router, type RouterOptions, type RouterResult } from "./router.js";
export { mixExperts, runExperts } from "./experts.js";
export {
  type ExpertActivation,
  type Experts,
  type GatedExperts,
  type PlainExperts,
} from "./expert_weights.js";
export { type ExpertsConfig, type InitOptions } from "./expert_parameters.js";
export { combine, dispatch, gatherTokens, type Dispatch } from "./dispatch.js";
export { countChoices, type CountOptions, type GroupBy } from "./choices.js";
export { loadBalanceLoss, type LoadBalanceOptions, type LoadBalanceResult } from "./load_balance_loss.js";
export { routerZLoss } from "./router_z_loss.js";
export { importanceLoss, type ImportanceLossOptions, type ImportanceLossResult } from "./importance_loss.js";
export {
  capacityOf,
  expertCapacity,
  type CapacityOptions,
  type ExpertCapacityOptions,
  type ExpertCapacityResult,
} from "./expert_capacity.js";
export {
  SwitchMoe,
  switchMoe,
  type SwitchMoeConfig,
  type SwitchMoeOptions,
  type SwitchMoeResult,
} from "./switch_moe.js";
export {
  GShardMoe,
  gshardMoe,
  type GShardMoeConfig,
  type GShardMoeOptions,
  type GShardMoeResult,
} from "./gshard_moe.js";
export { MixtralMoe, mixtralMoe, type MixtralMoeConfig, type MoeResult } from "./mixtral_moe.js";
export { groupLimitedTopk, type GroupLimit } from "./group_limited.js";
export {
  deepseekMoe,
  type DeepSeekMoeOptions,
  type DeepSeekMoeResult,
  type SharedExperts,
} from "./deepseek_moe.js";
export {
  deepseekBalanceLoss,
  type DeepSeekBalanceOptions,
  type DeepSeekBalanceResult,
} from "./deepseek_balance_loss.js";
export { DeepSeekMoe, type DeepSeekMoeConfig } from "./deepseek_moe_layer.js";
export { auxFreeBias } from "./aux_free_bias.js";
export {
  expertChoice,
  ExpertChoiceMoe,
  type ExpertChoiceMoeConfig,
  type ExpertChoiceOptions,
  type ExpertChoiceResult,
} from "./expert_choice.js";
export { productKeyTopk, type ProductKeyResult } from "./product_key_topk.js";
export { peer, type PeerOptions, type PeerResult, type PeerWeights, type QueryStatistics } from "./peer.js";
export { peerKeys } from "./peer_keys.js";
export { Peer, type PeerConfig } from "./peer_layer.js";
export { routingStats, type RoutingStats, type RoutingStatsOptions } from "./routing_stats.js";
