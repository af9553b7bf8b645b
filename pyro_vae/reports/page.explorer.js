"use strict";
(() => {
const D = JSON.parse(document.getElementById("explorer-data").textContent);
const numbersOf = id => {
  const text = atob(document.getElementById(id).textContent.trim()), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes.buffer;
};
const FLOATS = new Float32Array(numbersOf("explorer-floats")), BYTES = new Uint8Array(numbersOf("explorer-bytes"));
const floats = place => FLOATS.subarray(place[0], place[0] + place[1]);
const product = shape => shape.reduce((a, b) => a * b, 1);

// ---- the decoder: arrays of fixed shape, one operation after another --------------------------------------------
const strides = shape => { const s = []; let n = 1; for (let i = shape.length - 1; i >= 0; i--) { s[i] = n; n *= shape[i]; } return s; };
// for every element of `shape`, where it is in an array of shape `from` that is broadcast to it
const spread = (from, shape) => {
  const own = strides(from), lag = shape.length - from.length, step = shape.map((_, i) => i < lag || from[i - lag] === 1 ? 0 : own[i - lag]);
  return walk(shape, step, 0);
};
const walk = (shape, step, start) => {
  const n = product(shape), places = new Int32Array(n), at = shape.map(() => 0);
  for (let i = 0, place = start; i < n; i++) {
    places[i] = place;
    for (let d = shape.length - 1; d >= 0; d--) {
      place += step[d];
      if (++at[d] < shape[d]) break;
      place -= step[d] * shape[d]; at[d] = 0;
    }
  }
  return places;
};
const erf = x => {  // by its series, and by a continued fraction where that converges sooner
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) { let term = a, sum = a; for (let n = 1; n < 60; n++) { term *= -a * a / n; sum += term / (2 * n + 1); } return Math.sign(x) * sum * 2 / Math.sqrt(Math.PI); }
  let f = 0; for (let n = 60; n > 0; n--) f = n / 2 / (a + f);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + f));
};
const UNARY = {
  neg: x => -x, exp: Math.exp, log: Math.log, log1p: Math.log1p, expm1: Math.expm1, tanh: Math.tanh, sqrt: Math.sqrt, abs: Math.abs,
  sin: Math.sin, cos: Math.cos, erf, sigmoid: x => 1 / (1 + Math.exp(-x)), relu: x => x > 0 ? x : 0, rsqrt: x => 1 / Math.sqrt(x), reciprocal: x => 1 / x,
};
const BINARY = {
  add: (a, b) => a + b, sub: (a, b) => a - b, mul: (a, b) => a * b, div: (a, b) => a / b, maximum: Math.max, minimum: Math.min, pow: Math.pow,
  gt: (a, b) => +(a > b), ge: (a, b) => +(a >= b), lt: (a, b) => +(a < b), le: (a, b) => +(a <= b), eq: (a, b) => +(a === b), ne: (a, b) => +(a !== b),
};
const WITH_NUMBERS = {
  gelu: n => n.approximate === "tanh" ? x => x / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))) : x => x / 2 * (1 + erf(x / Math.SQRT2)),
  elu: n => x => x > 0 ? n.scale * x : n.scale * n.alpha * Math.expm1(n.input_scale * x),
  leaky_relu: n => x => x > 0 ? x : n.negative_slope * x,
  clamp: n => x => Math.min(Math.max(x, n.min ?? -Infinity), n.max ?? Infinity),
  softplus: n => x => x * n.beta > n.threshold ? x : Math.log1p(Math.exp(x * n.beta)) / n.beta,
};
// each takes a step, its inputs' shapes and its own, and gives what computes it: (inputs, result) => …
const OPS = {
  reshape: () => ([a], y) => y.set(a),
  expand: (s, [a], shape) => { const at = spread(a, shape); return ([x], y) => { for (let i = 0; i < y.length; i++) y[i] = x[at[i]]; }; },
  permute: (s, [a], shape) => { const own = strides(a), at = walk(shape, s.dims.map(d => own[d]), 0); return ([x], y) => { for (let i = 0; i < y.length; i++) y[i] = x[at[i]]; }; },
  slice: (s, [a], shape) => {
    const own = strides(a), start = own[s.dim] * s.start, step = own.map((n, d) => d === s.dim ? n * s.step : n);
    const full = "of" in s ? [...shape.slice(0, s.dim), 1, ...shape.slice(s.dim)] : shape, at = walk(full, step, start);
    return ([x], y) => { for (let i = 0; i < y.length; i++) y[i] = x[at[i]]; };
  },
  cat: (s, shapes, shape) => {
    const own = strides(shape); let start = 0;
    const parts = shapes.map(a => { const at = walk(a, own, own[s.dim] * start); start += a[s.dim]; return at; });
    return (xs, y) => xs.forEach((x, k) => { const at = parts[k]; for (let i = 0; i < at.length; i++) y[at[i]] = x[i]; });
  },
  matmul: (s, [a, b, c], shape) => {
    const [n, k] = a.slice(-2), m = b[b.length - 1], many = product(shape) / (n * m), at = c && spread(c, shape);
    return ([x, w, bias], y) => {
      for (let g = 0; g < many; g++) for (let i = 0; i < n; i++) {
        const sum = new Float64Array(m);
        for (let q = 0; q < k; q++) { const v = x[(g * n + i) * k + q]; if (v !== 0) for (let j = 0, p = (g * k + q) * m; j < m; j++) sum[j] += v * w[p + j]; }
        for (let j = 0, p = (g * n + i) * m; j < m; j++) y[p + j] = sum[j] + (bias ? bias[at[p + j]] : 0);
      }
    };
  },
  convolution: (s, [a, w], shape) => {
    const [, C, H, W] = a, [, O, P, Q] = shape, [, , R, S] = w, G = s.groups, c = C / G, o = O / G;
    return ([x, weight, bias], y) => {
      const sum = new Float64Array(O * P * Q);
      const add = (g, i, j, from, h, v, p, q, r, t) => { sum[(g * o + j) * P * Q + p * Q + q] += v * weight[((s.transposed ? (g * c + i) * o + j : (g * o + j) * c + i) * R + r) * S + t]; };
      for (let g = 0; g < G; g++) for (let i = 0; i < c; i++) for (let h = 0; h < H; h++) for (let l = 0; l < W; l++) {
        const v = x[(g * c + i) * H * W + h * W + l];
        if (v === 0) continue;
        for (let r = 0; r < R; r++) {
          const up = s.transposed ? h * s.stride[0] - s.padding[0] + r * s.dilation[0] : h + s.padding[0] - r * s.dilation[0];
          if (!s.transposed && up % s.stride[0]) continue;
          const p = s.transposed ? up : up / s.stride[0];
          if (p < 0 || p >= P) continue;
          for (let t = 0; t < S; t++) {
            const across = s.transposed ? l * s.stride[1] - s.padding[1] + t * s.dilation[1] : l + s.padding[1] - t * s.dilation[1];
            if (!s.transposed && across % s.stride[1]) continue;
            const q = s.transposed ? across : across / s.stride[1];
            if (q < 0 || q >= Q) continue;
            for (let j = 0; j < o; j++) add(g, i, j, 0, h, v, p, q, r, t);
          }
        }
      }
      for (let k = 0; k < O; k++) for (let i = 0, b = bias ? bias[k] : 0; i < P * Q; i++) y[k * P * Q + i] = sum[k * P * Q + i] + b;
    };
  },
  upsample: (s, [a], shape) => { const [, C, H, W] = a, [, , P, Q] = shape, f = P / H, e = Q / W; return ([x], y) => { for (let i = 0; i < y.length; i++) { const q = i % Q, p = Math.floor(i / Q) % P, k = Math.floor(i / Q / P); y[i] = x[(k * H + Math.floor(p / f)) * W + Math.floor(q / e)]; } }; },
  where: (s, shapes, shape) => { const at = shapes.map(a => spread(a, shape)); return ([c, x, z], y) => { for (let i = 0; i < y.length; i++) y[i] = c[at[0][i]] ? x[at[1][i]] : z[at[2][i]]; }; },
  affine: (s, [a, f, b], shape) => { const at = spread(f, shape); return ([x, factor, shift], y) => { for (let i = 0; i < y.length; i++) y[i] = x[i] * factor[at[i]] + shift[at[i]]; }; },
  softmax: (s, [a]) => reduced(a, [s.dim], (x, at, y) => { let m = -Infinity, n = 0; for (const i of at) m = Math.max(m, x[i]); for (const i of at) n += Math.exp(x[i] - m); for (const i of at) y[i] = Math.exp(x[i] - m) / n; }),
  sum: (s, [a]) => reduced(a, s.dims, (x, at, y, k) => { let n = 0; for (const i of at) n += x[i]; y[k] = n; }),
  mean: (s, [a]) => reduced(a, s.dims, (x, at, y, k) => { let n = 0; for (const i of at) n += x[i]; y[k] = n / at.length; }),
  amax: (s, [a]) => reduced(a, s.dims, (x, at, y, k) => { let m = -Infinity; for (const i of at) m = Math.max(m, x[i]); y[k] = m; }),
  group_norm: (s, [a, w]) => { const size = product(a) / s.groups, each = product(a.slice(2)); return normed(size, s.eps, i => Math.floor(i / each) % a[1]); },
  layer_norm: (s, [a]) => { const size = product(a.slice(a.length - s.dims)); return normed(size, s.eps, i => i % size); },
};
const normed = (size, eps, unit) => ([x, w, b], y) => {
  for (let start = 0; start < x.length; start += size) {
    let mean = 0, variance = 0;
    for (let i = start; i < start + size; i++) mean += x[i] / size;
    for (let i = start; i < start + size; i++) variance += (x[i] - mean) ** 2 / size;
    for (let i = start; i < start + size; i++) y[i] = (x[i] - mean) / Math.sqrt(variance + eps) * (w ? w[unit(i)] : 1) + (b ? b[unit(i)] : 0);
  }
};
const reduced = (a, dims, each) => {
  const own = strides(a), kept = a.map((n, d) => dims.includes(d) ? 1 : n);
  const starts = walk(kept, own, 0), inner = walk(dims.map(d => a[d]), dims.map(d => own[d]), 0);
  const groups = Array.from(starts, start => inner.map(i => i + start));
  return ([x], y) => groups.forEach((at, k) => each(x, at, y, k));
};
const prepare = program => {
  const arrays = {}, shapes = {}, tables = program.tables;
  for (const [name, { place, shape }] of Object.entries(program.constants)) { arrays[name] = floats(place); shapes[name] = shape; }
  for (const [name, { shape }] of Object.entries(tables)) shapes[name] = shape;
  arrays[program.input] = new Float32Array(product(program.input_shape)); shapes[program.input] = [1, ...program.input_shape];
  const steps = program.steps.map(s => {
    s.in.forEach(v => { if (typeof v === "number") { arrays[v] = [v]; shapes[v] = []; } });
    const own = s.in.map(v => shapes[v]), y = arrays[s.out] = new Float32Array(product(s.shape)); shapes[s.out] = s.shape;
    let compute;
    if (s.op in BINARY) {
      const f = BINARY[s.op], [p, q] = own.map(a => spread(a, s.shape));
      compute = ([a, b]) => { for (let i = 0; i < y.length; i++) y[i] = f(a[p[i]], b[q[i]]); };
    } else if (s.op in UNARY || s.op in WITH_NUMBERS) {
      const f = UNARY[s.op] || WITH_NUMBERS[s.op](s.with);
      compute = ([a]) => { for (let i = 0; i < y.length; i++) y[i] = f(a[i]); };
    } else compute = OPS[s.op](s, own, s.shape);
    return () => compute(s.in.map(v => arrays[v]), y);
  });
  return (z, context) => {
    arrays[program.input].set(z);
    for (const [name, { place, shape }] of Object.entries(tables)) { const n = product(shape); arrays[name] = floats([place[0] + context * n, n]); }
    steps.forEach(step => step());
    return arrays[program.output];
  };
};
// a decoder that is not run here: pictures on a grid in the plane, and between them a mixture of the four nearest
const fromGrid = grid => (z, context) => {
  const n = product(D.picture), [a, b] = coordinates(D.planes[0], z), side = grid.side, y = new Float32Array(n);
  const place = (v, k) => Math.min(Math.max((v - grid.low[k]) / (grid.high[k] - grid.low[k]), 0), 1) * (side - 1);
  const [s, t] = [place(a, 0), place(b, 1)], i = Math.min(Math.floor(s), side - 2), j = Math.min(Math.floor(t), side - 2);
  for (const [p, q] of [[i, j], [i + 1, j], [i, j + 1], [i + 1, j + 1]]) {
    const weight = (1 - Math.abs(s - p)) * (1 - Math.abs(t - q)), start = grid.place + ((context * side + p) * side + q) * n;
    for (let k = 0; k < n; k++) y[k] += weight * (D.limits[0] + (D.limits[1] - D.limits[0]) * BYTES[start + k] / 255);
  }
  return y;
};
const coordinates = (plane, z) => [0, 1].map(k => { let sum = 0; const d = floats(plane.directions), o = floats(plane.origin); for (let i = 0; i < D.dim; i++) sum += (z[i] - o[i]) * d[k * D.dim + i]; return sum; });
const decode = D.program ? prepare(D.program) : fromGrid(D.grid);

// ---- what is shown --------------------------------------------------------------------------------------------------
const $ = id => document.getElementById(id);
const [C, H, W] = D.picture, state = { z: Float32Array.from(floats(D.start)), context: 0, plane: 0, ends: [0, Math.min(1, D.thumbs.length - 1)], end: 0 };
const paint = (canvas, level) => {
  canvas.width = W; canvas.height = H;
  const image = new ImageData(W, H);
  for (let i = 0; i < H * W; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = level(C === 1 ? i : c * H * W + i);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
};
const level = v => Math.round(Math.min(Math.max((v - D.limits[0]) / (D.limits[1] - D.limits[0]), 0), 1) * 255);
const colour = label => label < 0 ? "#888" : D.colours[label % D.colours.length];
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name);
const frame = plane => ({ to: (v, k) => k ? (plane.high[1] - v) / (plane.high[1] - plane.low[1]) : (v - plane.low[0]) / (plane.high[0] - plane.low[0]) });

const drawPlane = () => {
  const canvas = $("plane"), plane = D.planes[state.plane], ratio = devicePixelRatio || 1, size = canvas.clientWidth, points = floats(plane.points);
  canvas.width = canvas.height = size * ratio;
  const g = canvas.getContext("2d"), { to } = frame(plane);
  g.scale(ratio, ratio);
  g.strokeStyle = style("--line"); g.lineWidth = 1;
  for (const k of [0, 1]) { const p = to(0, k) * size; g.beginPath(); k ? (g.moveTo(0, p), g.lineTo(size, p)) : (g.moveTo(p, 0), g.lineTo(p, size)); g.stroke(); }
  g.globalAlpha = .75;
  for (let i = 0; i < points.length / 2; i++) {
    g.fillStyle = D.labels ? colour(D.labels[i]) : style("--accent");
    g.beginPath(); g.arc(to(points[2 * i], 0) * size, to(points[2 * i + 1], 1) * size, 2.2, 0, 7); g.fill();
  }
  g.globalAlpha = 1;
  const [x, y] = coordinates(plane, state.z).map((v, k) => Math.min(Math.max(to(v, k), 0), 1) * size);
  g.lineWidth = 4; g.strokeStyle = style("--paper"); g.beginPath(); g.arc(x, y, 8, 0, 7); g.stroke();
  g.lineWidth = 2; g.strokeStyle = style("--ink"); g.beginPath(); g.arc(x, y, 8, 0, 7); g.stroke();
};
const draw = () => {
  const y = decode(state.z, state.context);
  paint($("picture"), i => level(y[i]));
  document.querySelectorAll("[data-unit]").forEach(slider => {
    const v = state.z[slider.dataset.unit];
    slider.value = v; slider.nextElementSibling.value = v.toFixed(2);
  });
  if ($("context")) $("context").value = state.context;
  document.querySelectorAll("[data-thumb]").forEach(b => { const i = +b.dataset.thumb; b.dataset.end = [i === state.ends[0] ? "A" : "", i === state.ends[1] ? "B" : ""].join(""); });
  document.querySelectorAll("[data-pick]").forEach(b => b.setAttribute("aria-pressed", +b.dataset.pick === state.end));
  drawPlane();
};
let waiting = false;
const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } };
const goTo = at => {  // coordinates in the plane; what stands at right angles to it stays
  const plane = D.planes[state.plane], d = floats(plane.directions), now = coordinates(plane, state.z);
  for (let i = 0; i < D.dim; i++) state.z[i] += (at[0] - now[0]) * d[i] + (at[1] - now[1]) * d[D.dim + i];
  later();
};
const between = t => {  // as pyro_vae.evaluation.latent_space.interpolate
  const [a, b] = state.ends.map(i => floats([D.means[0] + i * D.dim, D.dim]));
  let p = 1 - t, q = t;
  if ($("kind").value === "spherical") {
    let ab = 0, aa = 0, bb = 0;
    for (let i = 0; i < D.dim; i++) { ab += a[i] * b[i]; aa += a[i] ** 2; bb += b[i] ** 2; }
    const angle = Math.acos(Math.min(Math.max(ab / Math.sqrt(aa * bb), -1), 1));
    if (Math.sin(angle) > 1e-6) { p = Math.sin((1 - t) * angle) / Math.sin(angle); q = Math.sin(t * angle) / Math.sin(angle); }
  }
  for (let i = 0; i < D.dim; i++) state.z[i] = p * a[i] + q * b[i];
};

// ---- what is touched ------------------------------------------------------------------------------------------------
document.querySelectorAll("[data-unit]").forEach(slider => slider.addEventListener("input", () => { state.z[slider.dataset.unit] = +slider.value; later(); }));
const pointed = event => {
  const box = $("plane").getBoundingClientRect(), plane = D.planes[state.plane];
  const [u, v] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map(n => Math.min(Math.max(n, 0), 1));
  goTo([plane.low[0] + u * (plane.high[0] - plane.low[0]), plane.high[1] - v * (plane.high[1] - plane.low[1])]);
};
$("plane").addEventListener("pointerdown", event => { $("plane").setPointerCapture(event.pointerId); pointed(event); });
$("plane").addEventListener("pointermove", event => { if (event.buttons) pointed(event); });
$("plane").addEventListener("keydown", event => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!move) return;
  event.preventDefault();
  const plane = D.planes[state.plane], now = coordinates(plane, state.z);
  goTo(now.map((v, k) => v + move[k] * (plane.high[k] - plane.low[k]) / 40));
});
if ($("which-plane")) $("which-plane").addEventListener("change", event => { state.plane = +event.target.value; later(); });
if ($("context")) $("context").addEventListener("change", event => { state.context = +event.target.value; later(); });
$("middle").addEventListener("click", () => { state.z.set(floats(D.start)); later(); });
if ($("draw")) $("draw").addEventListener("click", () => {
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const loc = floats(D.prior.loc), scale = floats(D.prior.scale);
  for (let i = 0; i < D.dim; i++) state.z[i] = loc[i] + scale[i] * normal();
  later();
});
if ($("thumbs")) {
  D.thumbs.forEach((thumb, i) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    button.type = "button"; button.dataset.thumb = i; button.title = thumb.name; button.setAttribute("aria-label", thumb.name);
    paint(canvas, k => BYTES[thumb.place + k]);
    button.append(canvas); $("thumbs").append(button);
    button.addEventListener("click", () => {
      state.ends[state.end] = i;
      if (state.end === 0 || D.contexts === "of data") state.context = D.thumbs[state.ends[0]].context;
      $("way").value = state.end; between(state.end); state.end = 1 - state.end; later();
    });
  });
  document.querySelectorAll("[data-pick]").forEach(b => b.addEventListener("click", () => { state.end = +b.dataset.pick; later(); }));
  for (const id of ["way", "kind"]) $(id).addEventListener("input", () => { between(+$("way").value); state.context = D.thumbs[state.ends[0]].context; later(); });
}
addEventListener("resize", later);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
// pictures that Python has made of a few points: this page must make the same
let worst = 0;
for (const { z, context, picture } of D.checks) { const y = decode(floats(z), context), right = floats(picture); for (let i = 0; i < y.length; i++) worst = Math.max(worst, Math.abs(y[i] - right[i])); }
const most = D.program ? (D.limits[1] - D.limits[0]) / 255 : Infinity;
if (!(worst <= most)) $("wrong").hidden = false;
window.explorer = { decode: (z, context = 0) => { state.z.set(z); state.context = context; draw(); return decode(state.z, context); }, state, worst, between: (a, b, t) => { state.ends = [a, b]; between(t); draw(); return Array.from(state.z); } };
draw();
})();
