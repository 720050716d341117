"use strict";
// The page of a study: the cost, the scores and the samples of each setting.

const studied = { metric: null, cost: "nfe", at: 0 };

function studyPage(found) {
  if (!found.settings.length) return [h("p", {}, "No settings have been scored yet.")];
  if (!found.metrics.includes(studied.metric)) studied.metric = found.metrics.find((name) => higher(found, name) !== null) ?? found.metrics[0];
  studied.at = Math.min(studied.at, found.settings.length - 1);
  return [section("Score by cost", pareto(found)), section("Settings", settingsTable(found))];
}

const higher = (found, metric) => found.settings.map((setting) => setting.scores[metric]?.higher).find((value) => value !== undefined) ?? null;
const lineOf = (setting) => (setting.guidance ? `${setting.sampler}, ${setting.guidance.replace(/\bscale=[^,)]+(, )?/, "")}` : setting.sampler);
const costs_ = { nfe: "network evaluations per image", seconds: "seconds per image" };

function pareto(found) {
  const lines = [...new Set(found.settings.map(lineOf))];
  const caption = h("figcaption"), figure = h("figure", {}, caption);
  function show(i) {
    studied.at = i;
    const setting = found.settings[i], picture = setting.picture;
    caption.textContent = `${described(setting)}: ${found.metrics.map((name) => `${name} ${setting.scores[name]?.text ?? MISSING}`).join(", ")}`;
    figure.replaceChildren(...(picture ? [h("img", { src: picture.src, width: picture.columns * picture.width * 3, alt: `Samples of ${described(setting)}` })] : []), caption);
  }
  const plot = chart("Score by cost", (width) => {
    const rows = found.settings.map((setting, i) => ({ i, line: lineOf(setting), cost: setting[studied.cost], ...setting.scores[studied.metric] })).filter((row) => row.value !== undefined && row.value !== null && row.cost > 0);
    const floor = found.baselines.find((score) => score.what === "floor" && score.metric === studied.metric);
    const drawn = Plot.plot({
      width, height: Math.max(320, Math.min(460, width * 0.5)), style: plotStyle, marginLeft: 56, marginBottom: 40, marginTop: 32,
      x: { type: "log", label: costs_[studied.cost], ticks: 8, tickFormat: number }, y: { label: studied.metric, grid: true, nice: true, tickFormat: number },
      color: { legend: true, domain: lines, range: d3.range(lines.length).map((i) => PALETTE[i % PALETTE.length]) }, symbol: { domain: lines },
      marks: [
        floor && floor.low !== null ? Plot.rectY([floor], { y1: "low", y2: "high", fill: "currentColor", fillOpacity: 0.1 }) : null,
        floor ? Plot.ruleY([floor.value], { stroke: "currentColor", strokeDasharray: "4 3", strokeOpacity: 0.6 }) : null,
        Plot.line(rows.toSorted((a, b) => a.cost - b.cost), { x: "cost", y: "value", z: "line", stroke: "line", strokeOpacity: 0.6 }),
        Plot.ruleX(rows.filter((row) => row.low !== null), { x: "cost", y1: "low", y2: "high", stroke: "line" }),
        Plot.dot(rows, { x: "cost", y: "value", fill: "line", symbol: "line", r: 5, stroke: "var(--ground)" }),
        Plot.tip(rows, Plot.pointer({ x: "cost", y: "value", title: (row) => `${described(found.settings[row.i])}\n${row.text}` })),
      ],
    });
    drawn.addEventListener("input", () => { if (drawn.value) walk.input.set(drawn.value.i); });
    return drawn;
  });
  const choose = (key, label, options) => h("label", {}, `${label} `, h("select", { "aria-label": label, onchange: (event) => { studied[key] = event.target.value; plot.redraw(); } },
    Object.entries(options).map(([value, text]) => h("option", { value, selected: value === studied[key] }, text))));
  const walk = slider("setting", found.settings.length - 1, studied.at, (i) => { show(i); return described(found.settings[i]); });
  walk.input.set(studied.at);
  return [h("div", { class: "controls" }, choose("metric", "score", Object.fromEntries(found.metrics.map((name) => [name, name]))), choose("cost", "cost", costs_)),
    plot, h("p", { class: "soft" }, "Bars are 95% intervals; the dashed line is the floor, the score of real images against other real images. Point at a setting to see its samples."),
    walk.element, figure];
}

function described(setting) {
  return [`${setting.sampler} with ${setting.steps} steps`, setting.guidance, `${setting.nfe} evaluations`].filter(Boolean).join(", ");
}

function settingsTable(found) {
  const columns = [{ name: "sampler" }, { name: "guidance" }, { name: "steps", number: true }, { name: "evaluations", number: true }, { name: "s/image", number: true },
    ...found.metrics.map((name) => ({ name, number: true, title: unmarked(found.protocols[name]) }))];
  const rows = found.settings.map((setting) => ({
    cells: [setting.sampler, setting.guidance, number(setting.steps), number(setting.nfe), number(setting.seconds), ...found.metrics.map((name) => setting.scores[name]?.text)],
    values: [setting.sampler, setting.guidance, setting.steps, setting.nfe, setting.seconds, ...found.metrics.map((name) => setting.scores[name]?.value)],
    text: `${setting.sampler} ${setting.guidance ?? ""}`,
  }));
  return [sortable(columns, rows, "Settings"), notes(Object.entries(found.protocols)),
    found.baselines.length ? [h("h3", {}, "Baselines"), table([{ name: "of" }, { name: "metric" }, { name: "score", number: true }], found.baselines.map((score) => [ROLES[score.what] ?? score.what, score.metric, score.text]), "Baselines")] : null];
}
