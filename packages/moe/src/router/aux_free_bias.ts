import {
  defineKernel,
  expectDType,
  expectShape,
  grid1d,
  number,
  schema,
  type Config,
  type Tensor,
} from "@x/kernels";

/** bias[e] + speed * sign(mean - count[e]), compared in integers: total / experts against count. */
const biasKernel = defineKernel({
  name: "auxFreeBias",
  bindings: { bias: "read f32", counts: "read i32", out: "write f32" },
  params: { experts: "u32", speed: "f32" },
  wgsl: () => /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let e = id.x;
  if (e >= params.experts) { return; }
  var total = 0u;
  for (var i = 0u; i < params.experts; i++) { total += u32(counts[i]); }
  let whole = total / params.experts;
  let own = u32(counts[e]);
  var direction = 0.0;
  if (own > whole) { direction = -1.0; }
  else if (own < whole || total % params.experts > 0u) { direction = 1.0; }
  out[e] = bias[e] + params.speed * direction;
}`,
});

const OPTIONS = schema("auxFreeBias", {
  updateSpeed: number("Step of the bias.", { default: 0.001 }),
});
export type AuxFreeBiasOptions = Config<typeof OPTIONS>;

/**
 * Balancing without a loss: after a step, bias_e + updateSpeed sign(mean(c) - c_e) with c the tokens of each expert;
 * experts with too few tokens are chosen more easily from now on. Not differentiated.
 *
 * bias [experts], tokensPerExpert i32 [experts]. Wang et al. 2024, arXiv:2408.15664, algorithm 1; DeepSeek-V3,
 * arXiv:2412.19437, section 2.1.2.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function auxFreeBias(bias: Tensor, tokensPerExpert: Tensor, options: AuxFreeBiasOptions = {}): Tensor {
  const who = OPTIONS.name;
  const { updateSpeed } = OPTIONS.read(options);
  const { experts } = expectShape(who, "bias", bias, ["experts"]) as { experts: number };
  expectShape(who, "tokensPerExpert", tokensPerExpert, [experts]);
  expectDType(who, "bias", bias, "f32");
  expectDType(who, "tokensPerExpert", tokensPerExpert, "i32");
  const out = bias.gpu.empty(bias.shape);
  bias.gpu.run(biasKernel, {
    bindings: { bias, counts: tokensPerExpert, out },
    params: { experts, speed: updateSpeed },
    workgroups: grid1d(Math.ceil(experts / 64)),
  });
  return out;
}
