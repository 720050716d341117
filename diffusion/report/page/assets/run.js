"use strict";
// The page of one run.

const QUANTITIES = [
  ["Denoising error", ["val/mse", "val/mse_raw", "fit/mse", "fit/mse_raw", "train/loss"]],
  ["Generalisation gap", ["gap/mse", "gap/mse_raw"]],
];
const NAMES = {
  "val/mse": "validation", "val/mse_raw": "validation, raw weights", "fit/mse": "training images",
  "fit/mse_raw": "training images, raw weights", "train/loss": "training loss", "gap/mse": "gap", "gap/mse_raw": "gap, raw weights",
};
const chosen = { quantity: null, step: null, film: null }; // the reader's selections; kept when a live page is redrawn

function runPage(run) {
  return [
    summary(run),
    run.drawing ? section("Draw", drawing(run.drawing)) : null,
    section("Samples", contactSheet(run.samples)),
    section("Training", training(run)),
    section("Denoising", film(run.film)),
    section("Scores", scores(run.scores)),
    ...run.figures.map((each) => section(each.title, h("figure", {},
      h("img", { class: "smooth", src: each.src, width: each.width, height: each.height, alt: each.caption }), h("figcaption", {}, each.caption)))),
    section("Noise schedule", schedule(run.schedule)),
    section("Network", network(run.network)),
    section("Recipe", recipe(run)),
    section("Time and memory", costs(run.costs)),
    section("Files", run.files.length ? h("dl", {}, run.files.map(([name, what, href]) => [h("dt", {}, h("a", { href }, name)), h("dd", {}, what)])) : null),
  ];
}

function summary(run) {
  return h("div", {}, h("dl", {}, run.facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    run.command ? h("pre", {}, run.command) : null,
    run.resume ? [h("p", {}, "To resume:"), h("pre", {}, run.resume)] : null);
}

function contactSheet(found) {
  if (!found) return null;
  const left = found.drawn - found.images, count = `${grouped(found.images)}${left ? ` of ${grouped(found.drawn)}` : ""} samples`;
  return [zoomable(found, `${count} at the end of the run`), h("p", { class: "soft" },
    `${count} at the end of the run.${left ? ` The other ${grouped(left)} are omitted to keep this page small.` : ""}`)];
}

// ---------------------------------------------------------------------------------------- curves and sample strip

function training(run) {
  const names = Object.keys(run.metrics).filter((name) => !/_bin\d|\/half|\/se/.test(name));
  if (!names.length) return null;
  const apart = run.metrics["train/loss"]?.value.some((value) => value <= 0) ? "train/loss" : null; // with learned weights: in other units
  const groups = QUANTITIES.map(([title, members]) => [title, members.filter((name) => names.includes(name) && name !== apart)]).filter(([, members]) => members.length);
  const taken = new Set(groups.flatMap(([, members]) => members));
  for (const name of names.sort()) if (!taken.has(name)) groups.push([name, [name]]);
  if (!groups.some(([title]) => title === chosen.quantity)) chosen.quantity = groups[0][0];
  const group = () => groups.find(([title]) => title === chosen.quantity);
  const steps = axisSteps(run);
  const lines = chart("Training curves", (width) => curves(run, group(), width, (step) => set(nearest(steps, step))));
  const bins = binNames(run.metrics).length ? chart("Validation error by noise level", (width) => byLevel(run, width)) : null;
  const strip = run.strip ? tilesOf(run.strip, run.strip.columns, 1, "Samples from the same noise") : null;
  const pick = h("select", { "aria-label": "quantity", onchange: (event) => { chosen.quantity = event.target.value; lines.redraw(); } },
    groups.map(([title]) => h("option", { value: title, selected: title === chosen.quantity }, title)));
  const scrub = slider("step", steps.length - 1, steps.length - 1, (i) => {
    chosen.step = i === steps.length - 1 ? null : steps[i]; // null: keep following the last step during the run
    lines.redraw();
    bins?.redraw();
    if (strip) {
      const row = nearest(run.strip.steps, steps[i]);
      strip.show(Array.from({ length: run.strip.columns }, (_, column) => [row, column]),
        `Samples from the same noise at step ${grouped(run.strip.steps[row])}`);
      shown.textContent = `Samples from the same noise, at step ${grouped(run.strip.steps[row])}.`;
    }
    return `step ${grouped(steps[i])}`;
  });
  const shown = h("figcaption");
  const set = (i) => scrub.input.set(i);
  set(chosen.step === null ? steps.length - 1 : nearest(steps, chosen.step));
  return [h("div", { class: "controls" }, h("label", {}, "quantity ", pick)), lines,
    h("p", { class: "soft" }, `Errors are for the ${run.weights} unless stated otherwise; the training loss is the objective of single batches, with the raw weights. Point at a curve to read it; click to set the step.`),
    scrub.element, strip ? h("figure", {}, strip, shown) : null,
    bins ? [h("h3", {}, "Validation error by noise level"), bins,
      h("p", { class: "soft" }, "By time t, in tenths of [0, 1] from little noise to pure noise; the thick line is the validation closest to the selected step.")] : null,
    h("details", {}, h("summary", {}, "The numbers"), validations(run))];
}

/** The steps of the slider: those of validations and sample grids, or else of all logged values. */
function axisSteps(run) {
  const validated = run.metrics["val/mse"]?.step ?? [];
  const all = new Set([...validated, ...(run.strip?.steps ?? [])]);
  if (!all.size) for (const series of Object.values(run.metrics)) for (const step of series.step) all.add(step);
  return [...all].sort((a, b) => a - b);
}

function nearest(sorted, value) {
  let best = 0;
  sorted.forEach((each, i) => { if (Math.abs(each - value) <= Math.abs(sorted[best] - value)) best = i; });
  return best;
}

function curves(run, [title, members], width, choose) {
  const rows = members.flatMap((name) => run.metrics[name].step.map((step, i) => ({ step, value: run.metrics[name].value[i], name: NAMES[name] ?? name })));
  const positive = rows.every((row) => row.value > 0);
  const error = title === "Denoising error" && positive, height = Math.min(360, Math.max(240, width * 0.42));
  const y = error ? positiveAxis(rows.map((row) => row.value), height - 56) : null;
  const colors = members.map((name) => NAMES[name] ?? name);
  const half = run.metrics["gap/half"], gap = run.metrics["gap/mse"];
  const band = title === "Generalisation gap" && half && gap
    ? gap.step.map((step, i) => ({ step, low: gap.value[i] - half.value[i], high: gap.value[i] + half.value[i] })) : [];
  const few = new Set(members.filter((name) => run.metrics[name].step.length < (name === "train/loss" ? 2 : 60)).map((name) => NAMES[name] ?? name));
  const plot = Plot.plot({
    width, height, style: plotStyle, marginLeft: 56, marginBottom: 36,
    x: { label: "training step", ...stepAxis(d3.max(Object.values(run.metrics), (series) => series.step.at(-1)) || 1, width - 76) },
    y: error ? bare(y) : { label: null, grid: true, nice: true, tickFormat: number },
    color: { legend: colors.length > 1, domain: colors, range: members.map((name, i) => (name === "train/loss" ? "#9aa3ad" : PALETTE[i % 7])) },
    marks: [
      error ? labelled(y) : null,
      title === "Generalisation gap" ? Plot.ruleY([0], { stroke: "currentColor", strokeOpacity: 0.4 }) : null,
      Plot.areaY(band, { x: "step", y1: "low", y2: "high", fill: PALETTE[0], fillOpacity: 0.2 }),
      Plot.lineY(rows, { x: "step", y: "value", stroke: "name", z: "name", strokeWidth: 1.8 }),
      Plot.dot(rows.filter((row) => few.has(row.name)), { x: "step", y: "value", fill: "name", r: 3 }),
      chosen.step === null ? null : Plot.ruleX([chosen.step], { stroke: "currentColor", strokeOpacity: 0.5 }),
      Plot.tip(rows, Plot.pointer({ x: "step", y: "value", title: (row) => `${row.name}\nstep ${grouped(row.step)}\n${number(row.value)}` })),
    ],
  });
  plot.addEventListener("click", () => { if (plot.value) choose(plot.value.step); });
  return plot;
}

function binNames(metrics) {
  return Object.keys(metrics).filter((name) => /^val\/mse_bin\d+$/.test(name)).sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
}

function byLevel(run, width) {
  const middle = (name) => (Number(name.split("bin")[1]) + 0.5) / 10; // of a tenth of [0, 1]; bins without images have no point
  const rows = binNames(run.metrics).flatMap((name) => run.metrics[name].step.map((step, i) => ({ time: middle(name), step, value: run.metrics[name].value[i] })));
  const steps = [...new Set(rows.map((row) => row.step))].sort((a, b) => a - b);
  const row = chosen.step === null ? steps.length - 1 : nearest(steps, chosen.step);
  const y = positiveAxis(rows.map((each) => each.value).filter((value) => value > 0), 200);
  return Plot.plot({
    width, height: 260, style: plotStyle, marginLeft: 56, marginBottom: 36,
    x: { label: "time t", domain: [0, 1] }, y: bare(y),
    color: { scheme: "viridis", range: [0.25, 0.9], legend: true, label: "training step", domain: [0, steps[steps.length - 1]] }, // readable in both modes
    marks: [
      labelled(y),
      Plot.line(rows, { x: "time", y: "value", z: "step", stroke: "step", strokeOpacity: 0.7 }),
      Plot.line(rows.filter((each) => each.step === steps[row]), { x: "time", y: "value", stroke: "currentColor", strokeWidth: 2.5, marker: "dot" }),
      Plot.tip(rows, Plot.pointer({ x: "time", y: "value", title: (each) => `t ≈ ${number(each.time)}\nstep ${grouped(each.step)}\n${number(each.value)}` })),
    ],
  });
}

function validations(run) {
  const names = ["val/mse", "val/mse_raw", "fit/mse", "gap/mse", "gap/half"].filter((name) => run.metrics[name]);
  const steps = [...new Set(names.flatMap((name) => run.metrics[name].step))].sort((a, b) => a - b);
  const at = (name, step) => run.metrics[name].value[run.metrics[name].step.indexOf(step)];
  return table([{ name: "step", number: true }, ...names.map((name) => ({ name, number: true }))],
    steps.map((step) => [step, ...names.map((name) => at(name, step))]), "Validations");
}

// ------------------------------------------------------------------------------------------------------ denoising

function film(found) {
  if (!found) return null;
  const half = found.columns / 2, all = (row, first) => Array.from({ length: half }, (_, i) => [row, first + i]);
  const noisy = tilesOf(found, half, 1, "x_t"), clean = tilesOf(found, half, 1, "estimate of x0");
  const last = found.rows - 1;
  let timer = null;
  const scrub = slider("denoising step", last, chosen.film ?? last, (i) => {
    chosen.film = i;
    const time = number(found.times[i]);
    noisy.show(all(i, 0), `x_t of ${half} samples at t = ${time}`);
    clean.show(all(i, half), `Estimates of x0 for the same samples, in the step to t = ${time}`);
    return `t = ${time}`;
  });
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "play"; };
  const play = h("button", { class: "plain", type: "button", onclick: () => {
    if (timer) { stop(); return; }
    let i = Number(scrub.input.value) >= last ? 0 : Number(scrub.input.value);
    play.textContent = "pause";
    timer = setInterval(() => { scrub.input.set(i); if (i++ >= last) stop(); }, 120);
  } }, "play");
  scrub.input.set(Math.min(chosen.film ?? last, last));
  scrub.element.append(play);
  return [scrub.element, h("figure", {}, noisy, h("figcaption", {}, "x_t: the picture during denoising")),
    h("figure", {}, clean, h("figcaption", {}, "the network's estimate of x0 in the previous step"))];
}

// --------------------------------------------------------------------------------------------------------- scores

const ROLES = { samples: "samples", real: "real images", floor: "floor", untrained: "untrained network", noise: "pure noise" };

function scores(all) {
  if (!all.length) return null;
  const latest = new Map(); // by metric, protocol and subject
  for (const score of all) latest.set(JSON.stringify([score.metric, score.key, score.what]), score);
  const groups = d3.groups([...latest.values()], (score) => score.metric);
  const order = Object.keys(ROLES);
  const small = groups.map(([metric, members]) => {
    const rows = members.filter((score) => score.value !== null).map((score) => ({ ...score, who: ROLES[score.what] ?? score.what }));
    if (!rows.length) return null;
    const names = [...new Set(rows.map((row) => row.who))].sort((a, b) => rank(a) - rank(b));
    const better = members[0].higher === null ? "" : members[0].higher ? " (higher is better)" : " (lower is better)";
    return chart(`${metric}${better}`, (width) => { const left = Math.min(width * 0.45, Math.max(120, 20 + 7 * d3.max(names, (name) => name.length))); return Plot.plot({
      width, height: 54 + 24 * names.length, style: plotStyle, marginLeft: left, marginRight: 20, marginBottom: 30, marginTop: 20, title: `${metric}${better}`,
      x: { label: null, grid: true, zero: true, nice: true, ticks: Math.max(3, Math.floor(width / 90)), tickFormat: number },
      y: { domain: names, label: null, tickFormat: (name) => shortened(name, Math.floor((left - 20) / 7)) }, color: { domain: names, range: names.map((name) => (name === "samples" ? PALETTE[0] : PALETTE[7])) },
      marks: [
        Plot.ruleY(rows.filter((row) => row.low !== null), { x1: "low", x2: "high", y: "who", stroke: "who", strokeWidth: 2 }),
        Plot.dot(rows, { x: "value", y: "who", fill: "who", r: 4.5 }),
        Plot.tip(rows, Plot.pointerY({ x: "value", y: "who", title: (row) => `${row.who}\n${row.text}` })),
      ],
    }); });
  });
  function rank(name) { const i = order.findIndex((key) => ROLES[key] === name); return i < 0 ? -1 : i; }
  const columns = ["metric", "of", "value", "step", "weights", "sampler", "protocol"].map((name) => ({ name, number: name === "value" || name === "step" }));
  return [h("p", { class: "soft" }, "Bars are 95% intervals over resamples of the same size. The floor is the score of two sets of real images that differ by chance alone."),
    h("div", { class: "pair" }, small), h("details", {}, h("summary", {}, "All scores with their protocols"),
      table(columns, all.map((score) => [score.metric, ROLES[score.what] ?? score.what, score.text, score.step, score.weights, score.sampler, marked(score.protocol)]), "All scores"))];
}

// ----------------------------------------------------------------------------------------------- recipe and costs

function schedule(found) {
  if (!found) return null;
  const lines = (width, label, series, options = {}) => Plot.plot({
    width, height: 220, style: plotStyle, marginLeft: 48, marginBottom: 36, title: label,
    x: { label: "time t" }, y: { label: null, grid: true, tickFormat: number, ...options },
    color: { legend: series.length > 1, domain: series.map(([name]) => name), range: PALETTE },
    marks: [
      ...series.map(([name, t, values]) => Plot.line(t.map((time, i) => ({ time, value: values[i], name })).filter((row) => row.value !== null), { x: "time", y: "value", stroke: "name", strokeWidth: 2 })),
      Plot.tip(series.flatMap(([name, t, values]) => t.map((time, i) => ({ time, value: values[i], name }))).filter((row) => row.value !== null),
        Plot.pointer({ x: "time", y: "value", title: (row) => `${row.name}\nt = ${number(row.time)}\n${number(row.value)}` })),
    ],
  });
  const of = found.preserving ? ["signal √ᾱ", "noise √(1 − ᾱ)"] : ["signal α", "noise σ"];
  const relative = (values) => { const top = d3.max(values); return values.map((value) => (value === null ? null : value / top)); };
  const trained = found.density ? [["density of the training times", found.middle, relative(found.density)],
    ...(found.weight ? [["weight of the loss", found.middle, relative(found.weight)]] : [])] : null;
  return h("div", { class: "pair" },
    chart("Factors of signal and noise", (width) => lines(width, "factors in x_t", [[of[0], found.t, found.alpha], [of[1], found.t, found.sigma]])),
    chart("Log signal-to-noise ratio", (width) => lines(width, "log-SNR", [["log-SNR", found.t, found.log_snr]])),
    found.beta ? chart("Variance added by each step", (width) => lines(width, "β_t", [["β_t", found.beta_t, found.beta]])) : null,
    trained ? chart("Training times and loss weight", (width) => lines(width, "training times and loss weight, each relative to its maximum", trained, { domain: [0, 1.02] })) : null);
}

function network(found) {
  if (!found) return null;
  return [h("p", {}, `${found.class}: ${grouped(found.parameters)} parameters; one evaluation of one image takes ${number(found.gflop)} GFLOP (a multiply-add counts as two operations).`),
    h("details", { open: found.rows.length <= 30 }, h("summary", {}, "Parts"),
      table([{ name: "part" }, { name: "class" }, { name: "output" }, { name: "parameters", number: true }, { name: "GFLOP", number: true }],
        found.rows.map((row) => [row.part, row.class, row.output, grouped(row.parameters), row.gflop.toFixed(4)]), "Parts of the network"))];
}

function recipe(run) {
  const differences = run.differences === null ? null : run.differences.length
    ? [h("p", {}, "Settings that differ from the defaults:"), table([{ name: "setting" }, { name: "this run" }, { name: "default" }], run.differences, "Settings that differ from the defaults")]
    : h("p", {}, "All settings have their default values.");
  return [differences, run.recipe.length ? h("details", {}, h("summary", {}, "All settings"), table([{ name: "part" }, { name: "choice" }], run.recipe, "All settings")) : null];
}

function costs(found) {
  if (!found) return null;
  const bars = (title, parts, text, label) => {
    const rows = parts.map(([part, value]) => ({ part, value })).filter((row) => row.value > 0);
    if (!rows.length) return null;
    return chart(title, (width) => Plot.plot({
      width, height: 64 + 22 * rows.length, style: plotStyle, marginLeft: 150, marginRight: 110, marginBottom: 30, title,
      x: { label, grid: true, tickFormat: number, ticks: Math.max(2, Math.floor((width - 260) / 60)), transform: (value) => value / (label === "MB" ? 1e6 : 1) },
      y: { label: null, domain: rows.map((row) => row.part) },
      marks: [Plot.barX(rows, { x: "value", y: "part", fill: PALETTE[0] }),
        Plot.text(rows, { x: "value", y: "part", dx: 4, textAnchor: "start", text: (row) => text(row.value) })],
    }));
  };
  const total = d3.sum(found.seconds ?? [], ([, spent]) => spent);
  return [h("div", { class: "pair" },
    bars("Seconds of each part of the run", found.seconds ?? [], (spent) => `${seconds(spent)}, ${Math.round((100 * spent) / total)}%`, "seconds"),
    bars("Memory at the end of training", found.bytes ?? [], size, "MB")),
  found.seconds ? h("p", { class: "soft" }, `${seconds(total)} in all starts of the run. This is wall time from training to report: GPU work is counted where the process waits for it.`) : null,
  found.bytes ? h("p", { class: "soft" }, `The rest is the difference to the run's peak memory: activations, libraries, and memory for samples and scores. This is GPU memory; without a GPU, the memory of the process.`) : null];
}
