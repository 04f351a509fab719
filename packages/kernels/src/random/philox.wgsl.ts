/*
 * Random words from a counter. A fragment without bindings: the kernels of `random.ts` and `sample.ts`
 * include it, and an invocation takes its own counter, so that the grid does not change the values.
 */

/**
 * Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): four words from a counter of
 * four and a key of two. The same numbers on every adapter.
 */
export const philox = /* wgsl */ `
fn mulhilo(a: u32, b: u32) -> vec2u {
  let al = a & 0xffffu; let ah = a >> 16u;
  let bl = b & 0xffffu; let bh = b >> 16u;
  let ll = al * bl;
  let mid = al * bh + (ll >> 16u);
  let mid2 = ah * bl + (mid & 0xffffu);
  return vec2u(ah * bh + (mid >> 16u) + (mid2 >> 16u), a * b);
}
fn philox(counter: vec4u, seed: vec2u) -> vec4u {
  var c = counter;
  var k = seed;
  for (var round = 0u; round < 10u; round++) {
    let p = mulhilo(0xD2511F53u, c.x);
    let q = mulhilo(0xCD9E8D57u, c.z);
    c = vec4u(q.x ^ c.y ^ k.x, q.y, p.x ^ c.w ^ k.y, p.y);
    k += vec2u(0x9E3779B9u, 0xBB67AE85u);
  }
  return c;
}
// In [0, 1), 24 bits.
fn unit(word: u32) -> f32 { return f32(word >> 8u) * 5.9604644775390625e-8; }`;
