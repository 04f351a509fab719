export { renormalizeWeights, router, type RouterOptions, type RouterResult } from "./router/router.js";
export { mixExperts, runExperts } from "./experts/experts.js";
export { expertKeys } from "./experts/expert_keys.js";
export {
  type ExpertActivation,
  type Experts,
  type GatedExperts,
  type PlainExperts,
} from "./experts/expert_weights.js";
export { stackExperts } from "./experts/expert_parameters.js";
export { combine, dispatch, gatherTokens, type Dispatch } from "./experts/dispatch.js";
export { countChoices, type CountOptions, type GroupBy } from "./router/choices.js";
export {
  loadBalanceLoss,
  type LoadBalanceOptions,
  type LoadBalanceResult,
} from "./losses/load_balance_loss.js";
export { routerZLoss, type RouterZLossOptions } from "./losses/router_z_loss.js";
export {
  importanceLoss,
  type ImportanceLossOptions,
  type ImportanceLossResult,
} from "./losses/importance_loss.js";
export {
  capacityOf,
  expertCapacity,
  type CapacityOptions,
  type ExpertCapacityOptions,
  type ExpertCapacityResult,
} from "./router/expert_capacity.js";
export {
  SwitchMoe,
  switchMoe,
  type SwitchMoeConfig,
  type SwitchMoeForwardOptions,
  type SwitchMoeOptions,
  type SwitchMoeResult,
} from "./layers/switch_moe.js";
export {
  GShardMoe,
  gshardMoe,
  type GShardMoeConfig,
  type GShardMoeForwardOptions,
  type GShardMoeOptions,
  type GShardMoeResult,
} from "./layers/gshard_moe.js";
export { MixtralMoe, mixtralMoe, type MixtralMoeConfig, type MoeResult } from "./layers/mixtral_moe.js";
export type { SharedExperts } from "./experts/shared_experts.js";
export {
  deepseekRouter,
  type DeepSeekRouterOptions,
  type DeepSeekRouterResult,
} from "./router/deepseek_router.js";
export { groupLimitedTopk, type GroupLimitedTopkOptions } from "./router/group_limited.js";
export { deepseekMoe, type DeepSeekMoeOptions, type DeepSeekMoeResult } from "./layers/deepseek_moe.js";
export {
  deepseekBalanceLoss,
  type DeepSeekBalanceOptions,
  type DeepSeekBalanceResult,
} from "./losses/deepseek_balance_loss.js";
export { DeepSeekMoe, type DeepSeekMoeConfig } from "./layers/deepseek_moe_layer.js";
export { GptOssMoe, type GptOssMoeConfig } from "./layers/gpt_oss_moe.js";
export {
  zeroComputationMoe,
  type ZeroComputationMoeOptions,
  type ZeroComputationMoeResult,
} from "./layers/zero_computation_moe.js";
export { Qwen2Moe, type Qwen2MoeConfig } from "./layers/qwen2_moe.js";
export { auxFreeBias, type AuxFreeBiasOptions } from "./router/aux_free_bias.js";
export {
  expertChoice,
  ExpertChoiceMoe,
  type ExpertChoiceMoeConfig,
  type ExpertChoiceOptions,
  type ExpertChoiceResult,
} from "./layers/expert_choice.js";
export { productKeyTopk, type ProductKeyOptions, type ProductKeyResult } from "./peer/product_key_topk.js";
export {
  peer,
  type PeerOptions,
  type PeerResult,
  type PeerWeights,
  type QueryStatistics,
} from "./peer/peer.js";
export { peerKeys } from "./peer/peer_keys.js";
export { Peer, type PeerConfig, type PeerForwardOptions } from "./peer/peer_layer.js";
export { routingStats, type RoutingStats, type RoutingStatsOptions } from "./router/routing_stats.js";
