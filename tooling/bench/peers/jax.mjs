// The benchmarks in jax-js: every program is one jitted function, as its documentation advises.
const matrixNames = [
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
  const { module: jax, version } = await load("@jax-js/jax");
  await jax.init(backend);
  jax.defaultDevice(backend);
  const { numpy: np, nn, jit, valueAndGrad, vjp } = jax;
  /** Results of the runs since the last wait. They are kept until then: jax-js drops a run whose result is freed. */
  let pending = [];
  let last;
  const finish = (result) => {
    pending.push(result);
    last = result;
  };

  const forget = () => {
    jax.tree.dispose(pending);
    pending = [];
    last = undefined;
  };

  const array = ({ data, shape }) => np.array(data, { shape: [...shape] });
  const flat = async (x) => Float32Array.from(await x.data());

  const rmsNorm = (x, w, eps) => {
    const ms = np.mean(np.square(x.ref), -1, { keepdims: true });
    return x.div(np.sqrt(ms.add(eps))).mul(w);
  };

  /** x [seq, heads, dim] turned by tables [seq, 1, dim / 2]. */
  const rotate = (x, cos, sin) => {
    const half = x.shape[2] / 2;
    const [a, b] = np.split(x, [half], -1);
    return np.concatenate([a.ref.mul(cos.ref).sub(b.ref.mul(sin.ref)), b.mul(cos).add(a.mul(sin))], -1);
  };
  const tables = (o, first, count) => {
    const half = o.headDim / 2;
    const angles = Float64Array.from(
      { length: count * half },
      (_, i) => (first + Math.floor(i / half)) * 10000 ** (-(i % half) / half),
    );
    const table = (f) => array({ data: Float32Array.from(angles, f), shape: [count, 1, half] });
    return { cos: table(Math.cos), sin: table(Math.sin) };
  };

  /** Consumes x and the weights of w. Matrices are [in, out]; past: keys and values of earlier tokens. */
  const layer = (x, w, t, o, past) => {
    const seq = x.shape[0];
    const normed = rmsNorm(x.ref, w["input_layernorm.weight"], o.eps);
    const project = (name, heads) => np.matmul(normed.ref, w[name]).reshape([seq, heads, o.headDim]);
    const q = rotate(project("q_proj.weight", o.heads), t.cos.ref, t.sin.ref);
    let k = rotate(project("k_proj.weight", o.kvHeads), t.cos, t.sin);
    let v = project("v_proj.weight", o.kvHeads);
    normed.dispose();
    if (past) {
      k = np.concatenate([past.k, k], 0);
      v = np.concatenate([past.v, v], 0);
    }
    const mixed = nn.dotProductAttention(q, k, v, { isCausal: !past });
    const middle = x.add(np.matmul(mixed.reshape([seq, o.heads * o.headDim]), w["o_proj.weight"]));
    const normed2 = rmsNorm(middle.ref, w["post_attention_layernorm.weight"], o.eps);
    const gate = np.matmul(normed2.ref, w["gate_proj.weight"]);
    const up = np.matmul(normed2, w["up_proj.weight"]);
    return middle.add(np.matmul(nn.silu(gate).mul(up), w["down_proj.weight"]));
  };

  const weightsOf = (inputs, prefix = "") =>
    Object.fromEntries(
      matrixNames.map((name) => {
        const w = array(inputs[prefix + name]);
        return [name, w.shape.length === 2 ? np.transpose(w) : w];
      }),
    );
  /** A contiguous copy, made before the clock starts. */
  const settle = jit((x) => x.add(0));

  /** A program that applies a jitted function to arrays it keeps. */
  const pure = (fn, args, post = (outs) => outs) => {
    const jitted = jit(fn);
    const run = () => {
      finish(jitted(...args.map((a) => jax.tree.ref(a))));
    };
    return {
      step: run,
      outputs: async () => {
        const result = Array.isArray(last) ? last : [last];
        return Promise.all(post(result.map((x) => x.ref)).map(flat));
      },
      dispose: () => {
        forget();
        for (const a of args) jax.tree.dispose(a);
      },
    };
  };

  const heads = (x) => np.transpose(x, [1, 0, 2]);
  const builders = {
    matmul: (o, i) => pure((a, b) => np.matmul(a, b), [array(i.a), array(i.b)]),
    softmax: (o, i) => pure((x) => nn.softmax(x, -1), [array(i.x)]),
    rmsNorm: (o, i) => pure((x, w) => rmsNorm(x, w, o.eps), [array(i.x), array(i.weight)]),
    layerNorm: (o, i) =>
      pure(
        (x, w, b) => {
          const centred = x.ref.sub(np.mean(x, -1, { keepdims: true }));
          const variance = np.mean(np.square(centred.ref), -1, { keepdims: true });
          return centred
            .div(np.sqrt(variance.add(o.eps)))
            .mul(w)
            .add(b);
        },
        [array(i.x), array(i.weight), array(i.bias)],
      ),
    attention: (o, i) =>
      pure(
        (q, k, v) => nn.dotProductAttention(q, k, v, { isCausal: true }),
        [i.q, i.k, i.v].map((x) => settle(heads(array(x)))),
        ([out]) => [heads(out)],
      ),
    attentionGradient: (o, i) =>
      pure(
        (q, k, v, g) => {
          const [out, back] = vjp(
            (a, b, c) => nn.dotProductAttention(a, b, c, { isCausal: true }),
            [q, k, v],
          );
          out.dispose();
          const grads = back(g);
          back.dispose();
          return grads;
        },
        [i.q, i.k, i.v, i.grad].map((x) => settle(heads(array(x)))),
        (grads) => grads.map(heads),
      ),
    layer: (o, i) => {
      const t = tables(o, 0, o.seq);
      return pure((x, w, t) => layer(x, w, t, o), [array(i.x), jax.tree.map(settle, weightsOf(i)), t]);
    },
    layerTraining: (o, i) => {
      const t = tables(o, 0, o.seq);
      const x = array(i.x);
      const target = array(i.target);
      let w = jax.tree.map(settle, weightsOf(i));
      const zeros = () => jax.tree.map((p) => np.zeros(p.shape), w);
      let m = zeros();
      let v = zeros();
      let count = 0;
      let loss;
      const step = jit((w, m, v, x, target, t, hyper) => {
        const [loss, g] = valueAndGrad((w) => np.sum(np.square(layer(x, w, t, o).sub(target))).div(o.seq))(
          jax.tree.ref(w),
        );
        const [c1, c2] = np.split(hyper, [1], 0).map((h) => h.reshape([]));
        const out = { w: {}, m: {}, v: {} };
        for (const name of matrixNames) {
          const grad = g[name];
          const m1 = m[name].mul(o.beta1).add(grad.ref.mul(1 - o.beta1));
          const v1 = v[name].mul(o.beta2).add(np.square(grad).mul(1 - o.beta2));
          const update = m1.ref.mul(c1.ref).div(np.sqrt(v1.ref.mul(c2.ref)).add(o.eps));
          out.w[name] = w[name].mul(1 - o.learningRate * o.weightDecay).sub(update.mul(o.learningRate));
          out.m[name] = m1;
          out.v[name] = v1;
        }
        c1.dispose();
        c2.dispose();
        return [loss, out.w, out.m, out.v];
      });
      return {
        step: () => {
          count++;
          const hyper = np.array(new Float32Array([1 / (1 - o.beta1 ** count), 1 / (1 - o.beta2 ** count)]));
          [loss, w, m, v] = step(w, m, v, x.ref, target.ref, jax.tree.ref(t), hyper);
          finish([loss, jax.tree.ref(w)]);
        },
        outputs: async () => [
          await flat(last[0].ref),
          ...(await Promise.all(
            matrixNames.map((name) =>
              flat(w[name].shape.length === 2 ? np.transpose(w[name].ref) : w[name].ref),
            ),
          )),
        ],
        dispose: () => {
          forget();
          jax.tree.dispose([w, m, v, x, target, t]);
        },
      };
    },
    decode: (o, i) => {
      const t = tables(o, o.past, 1);
      const layers = Array.from({ length: o.layers }, (_, n) => ({
        w: jax.tree.map(settle, weightsOf(i, `${n}.`)),
        k: array(i[`${n}.k`]),
        v: array(i[`${n}.v`]),
      }));
      const id = np.array([7], { dtype: np.int32 });
      return pure(
        (id, table, head, layers, t) => {
          let x = np.take(table, id, 0);
          for (const { w, k, v } of layers) x = layer(x, w, jax.tree.ref(t), o, { k, v });
          jax.tree.dispose(t);
          return np.matmul(x, head);
        },
        [id, array(i.embedding), settle(np.transpose(array(i.head))), layers, t],
      );
    },
    tinyOp: (o, i) => {
      const x = array(i.x);
      return {
        step: () => {
          let y = x.ref;
          for (let n = 0; n < o.operations; n++) y = y.add(1);
          finish(y);
        },
        outputs: async () => [await flat(last.ref)],
        dispose: () => {
          forget();
          x.dispose();
        },
      };
    },
  };

  return {
    version,
    sync: async () => {
      await jax.blockUntilReady(pending);
      jax.tree.dispose(pending.slice(0, -1));
      pending = pending.slice(-1);
    },
    build: (kind, options, inputs) => builders[kind]?.(options, inputs),
  };
}
