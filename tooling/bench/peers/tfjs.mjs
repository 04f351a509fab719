// The benchmarks in TensorFlow.js.
const names = [
  "input_layernorm.weight",
  "q_proj.weight",
  "k_proj.weight",
  "v_proj.weight",
  "o_proj.weight",
  "post_attention_layernorm.weight",
  "gate_proj.weight",
  "up_proj.weight",
  "down_proj.weight",
];

export async function open(load, backend) {
  const { module, version } = await load("@tensorflow/tfjs");
  const tf = module.default ?? module;
  await load(`@tensorflow/tfjs-backend-${backend}`);
  if (!(await tf.setBackend(backend))) throw new Error(`tfjs has no ${backend} back end here`);
  await tf.ready();
  // Small tensors would be computed on the CPU, which is not what a row of the WebGPU back end is to show.
  if (backend === "webgpu") tf.env().set("WEBGPU_CPU_FORWARD", false);

  const tensor = ({ data, shape }) => tf.tensor(data, [...shape]);
  const rmsNorm = (x, w, eps) => x.mul(tf.rsqrt(x.square().mean(-1, true).add(eps))).mul(w);
  const tables = (o, first, count) => {
    const half = o.headDim / 2;
    const angles = Float64Array.from(
      { length: count * half },
      (_, i) => (first + Math.floor(i / half)) * 10000 ** (-(i % half) / half),
    );
    const table = (f) => tf.tensor(Float32Array.from(angles, f), [1, count, half]);
    return { cos: table(Math.cos), sin: table(Math.sin) };
  };
  /** x [heads, seq, dim]. */
  const rotate = (x, { cos, sin }) => {
    const [a, b] = tf.split(x, 2, -1);
    return tf.concat([a.mul(cos).sub(b.mul(sin)), b.mul(cos).add(a.mul(sin))], -1);
  };
  const causalMask = (seq) => {
    const mask = new Float32Array(seq * seq);
    for (let i = 0; i < seq; i++) for (let j = i + 1; j < seq; j++) mask[i * seq + j] = -1e9;
    return tf.tensor(mask, [1, seq, seq]);
  };
  /** q [heads, queries, dim], k and v [kvHeads, keys, dim]; query heads that share keys are more rows. */
  const attention = (q, k, v, mask) => {
    const [heads, queries, dim] = q.shape;
    const [kvHeads, keys] = k.shape;
    const rows = q.reshape([kvHeads, (heads / kvHeads) * queries, dim]);
    let scores = tf.matMul(rows, k, false, true).mul(1 / Math.sqrt(dim));
    if (mask) scores = scores.reshape([heads, queries, keys]).add(mask);
    const weights = tf.softmax(scores).reshape([kvHeads, (heads / kvHeads) * queries, keys]);
    return tf.matMul(weights, v).reshape([heads, queries, dim]);
  };
  /** Matrices are [in, out]. */
  const layer = (x, w, t, mask, o, past) => {
    const seq = x.shape[0];
    const normed = rmsNorm(x, w["input_layernorm.weight"], o.eps);
    const project = (name, heads) =>
      tf.transpose(tf.matMul(normed, w[name]).reshape([seq, heads, o.headDim]), [1, 0, 2]);
    const q = rotate(project("q_proj.weight", o.heads), t);
    let k = rotate(project("k_proj.weight", o.kvHeads), t);
    let v = project("v_proj.weight", o.kvHeads);
    if (past) {
      k = tf.concat([past.k, k], 1);
      v = tf.concat([past.v, v], 1);
    }
    const mixed = tf.transpose(attention(q, k, v, mask), [1, 0, 2]).reshape([seq, o.heads * o.headDim]);
    const middle = x.add(tf.matMul(mixed, w["o_proj.weight"]));
    const normed2 = rmsNorm(middle, w["post_attention_layernorm.weight"], o.eps);
    const gate = tf.matMul(normed2, w["gate_proj.weight"]);
    const act = gate.mul(tf.sigmoid(gate)).mul(tf.matMul(normed2, w["up_proj.weight"]));
    return middle.add(tf.matMul(act, w["down_proj.weight"]));
  };
  const weightsOf = (inputs, prefix = "") =>
    Object.fromEntries(
      names.map((name) => {
        const w = tensor(inputs[prefix + name]);
        return [name, w.shape.length === 2 ? tf.transpose(w) : w];
      }),
    );

  let last = [];
  const keepResult = (tensors) => {
    tf.dispose(last);
    last = tensors;
  };
  const pure = (fn, held) => ({
    step: () => {
      const result = tf.tidy(fn);
      keepResult(Array.isArray(result) ? result : [result]);
    },
    outputs: async () => Promise.all(last.map(async (x) => Float32Array.from(await x.data()))),
    dispose: () => {
      keepResult([]);
      tf.dispose(held);
    },
  });

  const builders = {
    matmul: (o, i) => {
      const h = { a: tensor(i.a), b: tensor(i.b) };
      return pure(() => tf.matMul(h.a, h.b), h);
    },
    softmax: (o, i) => {
      const h = { x: tensor(i.x) };
      return pure(() => tf.softmax(h.x), h);
    },
    rmsNorm: (o, i) => {
      const h = { x: tensor(i.x), w: tensor(i.weight) };
      return pure(() => rmsNorm(h.x, h.w, o.eps), h);
    },
    layerNorm: (o, i) => {
      const h = { x: tensor(i.x), w: tensor(i.weight), b: tensor(i.bias) };
      return pure(() => {
        const { mean, variance } = tf.moments(h.x, -1, true);
        return h.x
          .sub(mean)
          .mul(tf.rsqrt(variance.add(o.eps)))
          .mul(h.w)
          .add(h.b);
      }, h);
    },
    attention: (o, i) => {
      const h = { q: tensor(i.q), k: tensor(i.k), v: tensor(i.v), mask: causalMask(o.seq) };
      return pure(() => attention(h.q, h.k, h.v, h.mask), h);
    },
    attentionGradient: (o, i) => {
      const h = {
        q: tensor(i.q),
        k: tensor(i.k),
        v: tensor(i.v),
        g: tensor(i.grad),
        mask: causalMask(o.seq),
      };
      const grads = tf.grads((q, k, v) => attention(q, k, v, h.mask));
      return pure(() => grads([h.q, h.k, h.v], h.g), h);
    },
    layer: (o, i) => {
      const h = { x: tensor(i.x), w: weightsOf(i), t: tables(o, 0, o.seq), mask: causalMask(o.seq) };
      return pure(() => layer(h.x, h.w, h.t, h.mask, o), h);
    },
    layerTraining: (o, i) => {
      const h = { x: tensor(i.x), target: tensor(i.target), t: tables(o, 0, o.seq), mask: causalMask(o.seq) };
      const w = Object.fromEntries(Object.entries(weightsOf(i)).map(([name, x]) => [name, tf.variable(x)]));
      const list = names.map((name) => w[name]);
      const optimizer = tf.train.adam(o.learningRate, o.beta1, o.beta2, o.eps);
      return {
        step: () => {
          const loss = tf.tidy(() => {
            const { value, grads } = tf.variableGrads(
              () => layer(h.x, w, h.t, h.mask, o).sub(h.target).square().sum().div(o.seq),
              list,
            );
            for (const p of list) p.assign(p.mul(1 - o.learningRate * o.weightDecay));
            optimizer.applyGradients(grads);
            return value;
          });
          keepResult([loss]);
        },
        outputs: async () =>
          Promise.all(
            [last[0], ...list].map(async (x) =>
              Float32Array.from(await (x.shape.length === 2 ? tf.transpose(x) : x).data()),
            ),
          ),
        dispose: () => {
          keepResult([]);
          optimizer.dispose();
          tf.dispose([h, w]);
        },
      };
    },
    decode: (o, i) => {
      const cache = (x) => tf.transpose(tensor(x), [1, 0, 2]);
      const h = {
        id: tf.tensor1d([7], "int32"),
        table: tensor(i.embedding),
        head: tf.transpose(tensor(i.head)),
        t: tables(o, o.past, 1),
        layers: Array.from({ length: o.layers }, (_, n) => ({
          w: weightsOf(i, `${n}.`),
          k: cache(i[`${n}.k`]),
          v: cache(i[`${n}.v`]),
        })),
      };
      return pure(() => {
        let x = tf.gather(h.table, h.id);
        for (const { w, k, v } of h.layers) x = layer(x, w, h.t, undefined, o, { k, v });
        return tf.matMul(x, h.head);
      }, h);
    },
    tinyOp: (o, i) => {
      const h = { x: tensor(i.x) };
      return pure(() => {
        let y = h.x;
        for (let n = 0; n < o.operations; n++) y = y.add(1);
        return y;
      }, h);
    },
  };

  return {
    version,
    sync: async () => {
      if (backend !== "webgpu") return;
      const device = tf.backend();
      device.endComputePassEncoder();
      if (device.commandEncoder) device.submitQueue();
      await device.queue.onSubmittedWorkDone();
    },
    build: (kind, options, inputs) => builders[kind]?.(options, inputs),
  };
}
