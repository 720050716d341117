"use strict";
// A playground of points: particles that samplers move along the field of the score, the exact one and the learned one.
// A table of times has all the values of schedules and predictions; see export/web.py.

const form = document.getElementById("playground"), { seed, method, kind, panels, arrows, paths } = form.elements;
const model = JSON.parse(form.dataset.model), none = model.classes.length, count = model.table.length, weights = {};
const times = model.table.map(([cIn, label, p, q, alpha, sigma]) => ({ cIn, label, p, q, alpha, sigma }));
times.push({ alpha: model.table[count - 1][6], sigma: model.table[count - 1][7] });
for (const t of times) t.size = Math.hypot(t.alpha, t.sigma); // pictures show x_t/size, which is never wide
const bytes = Uint8Array.from(atob(model.numbers), (byte) => byte.charCodeAt());
let read = 0;
for (const [name, length] of model.lengths) {
  weights[name] = new Float32Array(bytes.buffer, read, length);
  read += 4 * length;
}

/** W v + b of the linear layer `name`. */
function linear(name, v) {
  const W = weights[`${name}.weight`], b = weights[`${name}.bias`], out = new Float32Array(b.length), n = v.length;
  for (let row = 0, at = 0; row < b.length; row++) {
    let sum = b[row];
    for (let i = 0; i < n; i++) sum += W[at++] * v[i];
    out[row] = sum;
  }
  return out;
}

function norm(name, v) {
  const W = weights[`${name}.weight`], b = weights[`${name}.bias`];
  const mean = v.reduce((sum, value) => sum + value) / v.length;
  const scale = 1 / Math.sqrt(v.reduce((sum, value) => sum + (value - mean) ** 2, 0) / v.length + 1e-5);
  return v.map((value, i) => (value - mean) * scale * W[i] + b[i]);
}

const silu = (value) => value / (1 + Math.exp(-value));

/** The network (model/mlp.py) at one time and for one class: a function of x (2) that returns y (2). */
function network(label, kind) {
  const half = weights["embedding.linear1.weight"].length / weights["embedding.linear1.bias"].length / 2;
  const phases = Float32Array.from({ length: half }, (_, k) => label * Math.fround(10000 ** (-k / (half - 1))));
  const waves = [...phases.map(Math.sin), ...phases.map(Math.cos)], classes = weights["embedding.classes.weight"];
  const emb = linear("embedding.linear2", linear("embedding.linear1", waves).map(silu)), modulations = [];
  const features = emb.map((value, i) => silu(value + (classes ? classes[kind * emb.length + i] : 0)));
  for (let i = 0; weights[`first.${i}.bias`]; i++) modulations.push(linear(`modulations.${i}`, features));
  return (x) => {
    let h = linear("stem", x);
    modulations.forEach((m, i) => {
      const inner = linear(`first.${i}`, norm(`norms.${i}`, h));
      const more = linear(`second.${i}`, inner.map((value, j) => silu((1 + m[j]) * value + m[h.length + j])));
      h = h.map((value, j) => value + more[j]);
    });
    return linear("out", norm(`norms.${modulations.length}`, h));
  };
}

/** The Gaussians of x_t (process/mixture.py), for one class or for all: v_k, g_k and log(w_k/v_k). */
const gaussians = ({ alpha, sigma }, kind) =>
  model.components.filter((row) => kind === none || row[4] === kind).map(([x, y, s, log]) => {
    const v = (alpha * s) ** 2 + sigma ** 2;
    return { x, y, v, gain: (alpha * s ** 2) / v, log: log - Math.log(v) };
  });

/** The results of `each` (x, y, i) for all points of places (2n), x_0 y_0 x_1 y_1 … */
const points = (places, each) =>
  Array.from({ length: places.length / 2 }, (_, k) => each(places[2 * k], places[2 * k + 1], 2 * k));

/** Estimates of x0 (2n) for x_t (2n). */
const estimates = {
  exact(x_t, t, kind) {
    const parts = gaussians(t, kind), logs = new Float64Array(parts.length);
    return Float64Array.from(points(x_t, (x, y) => {
      parts.forEach((k, j) => (logs[j] = k.log - ((x - t.alpha * k.x) ** 2 + (y - t.alpha * k.y) ** 2) / (2 * k.v)));
      const most = logs.reduce((a, b) => Math.max(a, b)), sums = [0, 0, 0];
      parts.forEach((k, j) => {
        const share = Math.exp(logs[j] - most);
        sums[0] += share * (k.x + k.gain * (x - t.alpha * k.x));
        sums[1] += share * (k.y + k.gain * (y - t.alpha * k.y));
        sums[2] += share;
      });
      return [sums[0] / sums[2], sums[1] / sums[2]];
    }).flat());
  },
  learned(x_t, t, kind) {
    const of = network(t.label, kind), y = points(x_t, (...x) => of([t.cIn * x[0], t.cIn * x[1]]));
    return x_t.map((value, i) => t.p * value + t.q * y[i >> 1][i & 1]);
  },
};
const noiseOf = (x, x0, t) => x.map((value, i) => (value - t.alpha * x0[i]) / t.sigma);

/** Steps from t to s (process/sampler.py); r = exp(lam_t − lam_s), and z are random values. */
const methods = {
  ddim: ({ x0, eps, s }) => x0.map((value, i) => s.alpha * value + s.sigma * eps[i]),
  ancestral: ({ x0, eps, s, r, z }) =>
    x0.map((value, i) => s.alpha * value + s.sigma * (r * eps[i] + Math.sqrt(1 - r ** 2) * z[i])),
  heun(at) {
    const { x, x0, eps, t, s, estimate } = at, euler = methods.ddim(at);
    if (!s.sigma) return euler;
    const scale = (s.alpha + s.sigma) / (t.alpha + t.sigma), rise = (s.sigma - scale * t.sigma) / 2; // c = 1
    const other = estimate(euler, s), ahead = noiseOf(euler, other, s);
    return x.map((value, i) => scale * value + rise * (eps[i] - x0[i] + ahead[i] - other[i]));
  },
  dpm_2m({ x, x0, t, s, r, before }) {
    const share = before && s.sigma ? Math.log(r) / Math.log(before.r) / 2 : 0, last = before?.x0 ?? x0;
    const mean = x0.map((value, i) => value + share * (value - last[i]));
    return x.map((value, i) => (s.sigma / t.sigma) * value + s.alpha * (1 - r) * mean[i]);
  },
};

/** Particles from N(0, I) (2n) to data: their places at all times of the steps, and the number of evaluations. */
function travel(denoise, name, steps, noise, kind, random) {
  const places = [Float64Array.from(noise, (value) => value * times[0].size)];
  let evaluations = 0, before = null;
  const estimate = (x, t) => { evaluations++; return denoise(x, t, kind); };
  for (let k = 0; k < steps; k++) {
    const x = places[k], [t, s] = [k, k + 1].map((i) => times[(i * count) / steps]), x0 = estimate(x, t);
    const r = (t.alpha * s.sigma) / (s.alpha * t.sigma), z = random.subarray(k * x.length);
    places.push(methods[name]({ x, x0, eps: noiseOf(x, x0, t), t, s, r, z, before, estimate }));
    before = { x0, r };
  }
  return { places, evaluations };
}

const PARTICLES = 200, ARROWS = 17, FINE = 120; // squares along a side: of arrows, of the density
const centres = (n) => Array.from({ length: n }, (_, i) => model.limit * ((2 * i + 1) / n - 1));
const grid = Float64Array.from(centres(ARROWS).flatMap((y) => centres(ARROWS).flatMap((x) => [x, y])));
const choices = times.map((_, n) => n).filter((n) => n && count % n === 0), journeys = {}; // numbers of steps
let waiting = 0, playing = 0;

/** A colour of the style sheet, which has another in the dark. */
function colour(name) {
  form.style.outlineColor = `var(--${name})`;
  return getComputedStyle(form).outlineColor;
}

/** The exact density of x_t/size, with the root of its share of the maximum as opacity. */
function density(t, kind) {
  const total = new Float64Array(FINE ** 2), squares = centres(FINE);
  for (const { x, y, v, log } of gaussians(t, kind)) {
    const curve = (mean) => squares.map((at) => Math.exp(log / 2 - (t.size * at - t.alpha * mean) ** 2 / (2 * v)));
    const across = curve(x), down = curve(-y);
    for (let j = 0; j < FINE; j++) for (let i = 0; i < FINE; i++) total[j * FINE + i] += down[j] * across[i];
  }
  const canvas = h("canvas", { width: FINE, height: FINE }), pen = canvas.getContext("2d");
  const most = total.reduce((a, b) => Math.max(a, b)), image = pen.createImageData(FINE, FINE);
  total.forEach((value, i) => (image.data[4 * i + 3] = 200 * Math.sqrt(value / most)));
  pen.putImageData(image, 0, 0);
  pen.globalCompositeOperation = "source-in";
  pen.fillStyle = colour("blue");
  pen.fillRect(0, 0, FINE, FINE);
  return canvas;
}

/** The particles' places in the picture. They miss the data if they end 3 deviations or more from all Gaussians. */
function journey(name, steps, kind) {
  const random = gaussian(Number(seed.value), 2 * PARTICLES * (steps + 1)), own = gaussians(times[count], kind);
  const [noise, more] = [random.subarray(0, 2 * PARTICLES), random.subarray(2 * PARTICLES)];
  const { places, evaluations } = travel(estimates[name], method.value, steps, noise, kind, more);
  const far = points(places[steps], (x, y) => own.every((k) => (x - k.x) ** 2 + (y - k.y) ** 2 > 9 * k.v));
  const missed = Math.round((100 * far.filter(Boolean).length) / PARTICLES);
  const stops = places.map((x, k) => x.map((value) => value / times[(k * count) / steps].size));
  return { stops, said: `${evaluations} evaluation${evaluations > 1 ? "s" : ""}, ${missed}% miss the data` };
}

function paint(figure, i, steps, kind, below) {
  const canvas = figure.querySelector("canvas"), pen = canvas.getContext("2d"), t = times[i], half = canvas.width / 2;
  const across = (x) => half * (1 + x / model.limit), down = (y) => half * (1 - y / model.limit);
  const line = (places) => places.forEach(([x, y], k) => pen[k ? "lineTo" : "moveTo"](across(x), down(y)));
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(below, 0, 0, canvas.width, canvas.height);
  pen.beginPath();
  if (t.sigma && arrows.checked) {
    const x = grid.map((value) => value * t.size), eps = noiseOf(x, estimates[figure.id](x, t, kind), t);
    points(eps, (a, b, k) => { // shorter than a square
      const [u, v] = [a, b].map((value) => ((-model.limit / ARROWS) * value) / (1 + Math.hypot(a, b)));
      const at = ([along, aside]) => [grid[k] + along * u - aside * v, grid[k + 1] + along * v + aside * u];
      line([[1, 0], [0.3, 0.35], [0.3, 0.1], [-1, 0.1], [-1, -0.1], [0.3, -0.1], [0.3, -0.35]].map(at));
    });
  }
  pen.fillStyle = colour("ink");
  pen.fill();
  const key = [figure.id, method.value, steps, seed.value, kind];
  const { stops, said } = (journeys[key] ??= journey(figure.id, steps, kind)), now = (i * steps) / count;
  const k = Math.min(steps - 1, Math.floor(now)), next = stops[k + 1]; // particles are between two places
  const here = stops[k].map((value, j) => value + (now - k) * (next[j] - value));
  const way = [...stops.slice(0, k + 1), here];
  pen.strokeStyle = pen.fillStyle = colour("vermilion");
  pen.lineWidth = 1.5;
  pen.globalAlpha = 0.5;
  pen.beginPath();
  if (paths.checked) points(here, (x, y, j) => line(way.map((each) => [each[j], each[j + 1]])));
  pen.stroke();
  pen.globalAlpha = 1;
  pen.beginPath();
  points(here, (x, y) => { pen.moveTo(across(x), down(y)); pen.arc(across(x), down(y), 6, 0, 7); });
  pen.fill();
  canvas.setAttribute("aria-label", `The ${figure.id} score and particles at ${share(i)} noise`);
  figure.querySelector("span").textContent = said;
}

function refresh() {
  waiting = 0;
  const i = Number(noise.input.value), steps = choices[jumps.input.value], chosen = Number(kind.value);
  const below = density(times[i], chosen);
  for (const figure of document.querySelectorAll(".fields figure")) {
    figure.hidden = panels.value && panels.value !== figure.id;
    if (!figure.hidden) paint(figure, i, steps, chosen, below);
  }
}

const soon = () => { if (form.checkValidity()) waiting ||= requestAnimationFrame(refresh); };
const share = (i) => `${Math.round((100 * times[i].sigma) / (times[i].alpha + times[i].sigma))}%`;
const noise = slider("noise", count, 0.8 * count, (i) => { soon(); return share(i); });
const jumps = slider("steps", choices.length - 1, choices.indexOf(20), (i) => { soon(); return choices[i]; });
function play() {
  const began = performance.now(), first = Number(noise.input.value) % count;
  const frame = (now) => {
    noise.set(Math.min(count, Math.round(first + (count * (now - began)) / 6000))); // 6 seconds
    if (Number(noise.input.value) < count) playing = requestAnimationFrame(frame);
  };
  cancelAnimationFrame(playing);
  frame(began);
}
noise.element.append(h("button", { class: "plain", type: "button", onclick: play }, "play"));
form.append(noise.element, jumps.element);
form.onsubmit = (event) => event.preventDefault();
form.oninput = () => { cancelAnimationFrame(playing); soon(); };
matchMedia("(prefers-color-scheme: dark)").onchange = soon;
