"use strict";
// The page of a sweep or of a comparison of runs.

const swiped = { a: null, b: null, at: 50 }; // the names of the two runs and the divider position; kept when the page is redrawn

function comparisonPage(found) {
  return [
    found.warnings.map((warning) => h("p", { class: "notice" }, `Warning: ${warning}.`)),
    section("Recipes", recipes(found)),
    section("Scores by recipe", means(found)),
    section("Settings and results", parallel(found)),
    section("Validation error", smallMultiples(found), shownOnly(found)),
    section(found.run_settings.includes("seed") ? "Samples" : "Samples from the same noise", sideBySide(found), shownOnly(found)),
    section("Two runs", swipe(found)),
    section("Runs", runsTable(found), found.left_out.length
      ? [h("h3", {}, "Left out"), h("ul", {}, found.left_out.map(([run, reason]) => h("li", {}, `${run}: ${reason}`)))] : null),
  ].flat();
}

function recipes(found) {
  if (!found.recipes.length) return h("p", {}, "No run is complete.");
  const first = found.numbered ? [{ name: "row", number: true }] : [];
  const columns = [...first, ...found.settings.map((name) => ({ name })), { name: "seeds", number: true },
    ...found.columns.map((column) => ({ name: column.name, number: true, title: unmarked(column.words) }))];
  const rows = found.recipes.map((recipe, i) => {
    const row = found.numbered ? [i + 1] : [];
    const cells = found.columns.map((column) => recipe.cells[column.name]);
    const shown = cells.map((cell) => (cell ? (cell.best ? h("strong", {}, cell.text) : `${cell.text}${cell.similar ? " ≈" : ""}`) : null));
    return { cells: [...row, ...recipe.settings, String(recipe.seeds), ...shown], values: [...row, ...recipe.settings.map(asNumber), recipe.seeds, ...cells.map((cell) => cell?.mean)],
      text: `${recipe.name} ${recipe.label}` };
  });
  return [sortable(columns, rows, "Recipes"),
    h("p", { class: "soft" }, "Mean ± half of the 95% interval over training seeds; samplings of one model are averaged first. Bold: the best mean of a column; ≈: a mean that is not shown to differ from it, by Welch's tests at 5% for the whole column (Holm's correction), or for lack of a second seed."),
    notes(found.columns.map((column) => [column.name, column.words.replace(`${column.name}: `, "")]))];
}

/** A note if only some of the runs have curves and pictures. */
const shownOnly = (found) => (found.runs.length > found.shown ? h("p", { class: "soft" }, `Of ${found.shown} of the ${found.runs.length} runs.`) : null);

const asNumber = (text) => (text !== "" && Number.isFinite(Number(text)) ? Number(text) : text);

/** A small chart per column: a dot per training seed, and the mean with its interval. */
function means(found) {
  const columns = found.columns.filter((column) => column.name !== "seconds");
  if (found.recipes.length < 2 || !columns.length) return null;
  return h("div", { class: "pair" }, columns.map((column) => {
    const rows = found.recipes.map((recipe, i) => ({ ...recipe.cells[column.name], recipe: recipe.name, label: recipe.label })).filter((row) => row.mean !== undefined);
    const dots = rows.flatMap((row) => row.numbers.map((value) => ({ value, recipe: row.recipe })));
    const better = column.lower === null ? "" : column.lower ? " (lower is better)" : " (higher is better)";
    const ends = rows.flatMap((row) => [row.mean - (row.half ?? 0), row.mean + (row.half ?? 0)]);
    const spread = range([...ends, ...dots.map((dot) => dot.value)]);
    return chart(`${column.name}${better}`, (width) => { const left = Math.min(200, width * 0.45, 20 + 7 * d3.max(rows, (row) => row.recipe.length)), line = left / 7 - 2, x = linearAxis(spread, width - left - 20); return Plot.plot({
      width, height: 60 + rows.length * Math.max(26, 15 * d3.max(rows, (row) => lines(row.recipe, line))), style: plotStyle, marginLeft: left, marginBottom: 30, title: `${column.name}${better}`,
      x: { label: null, grid: true, ...x, tickFormat: number },
      y: { domain: rows.map((row) => row.recipe) },
      marks: [
        Plot.axisY({ label: null, tickSize: 0, lineWidth: (7 * line) / 12, tickFormat: (text) => text.split(" ").map((word) => shortened(word, Math.max(8, Math.floor(line)))).join(" ") }),
        Plot.dot(dots, { x: "value", y: "recipe", fill: PALETTE[7], fillOpacity: 0.6, r: 3 }),
        Plot.ruleY(rows.filter((row) => row.half > 1e-12 * Math.max(1, Math.abs(row.mean))), { x1: (row) => row.mean - row.half, x2: (row) => row.mean + row.half, y: "recipe", stroke: (row) => PALETTE[row.best ? 1 : 0], strokeWidth: 2 }),
        Plot.dot(rows, { x: "mean", y: "recipe", fill: (row) => PALETTE[row.best ? 1 : 0], r: 4.5 }),
        Plot.tip(rows, Plot.pointerY({ x: "mean", y: "recipe", title: (row) => `${row.label}\n${row.text}` })),
      ],
    }); });
  }));
}

/** The number of lines of a text broken at spaces into lines of at most `length` characters. */
function lines(text, length) {
  let count = 1, used = 0;
  for (const word of text.split(" ")) {
    if (used && used + word.length > length) { count++; used = 0; }
    used += word.length + 1;
  }
  return count;
}

const shortened = (text, length) => (text.length > length ? `${text.slice(0, Math.max(4, length - 1))}…` : text);

/** Parallel coordinates: an axis per differing setting and per number, a line per run. */
function parallel(found) {
  const ranked = d3.greatest(found.columns.filter((column) => column.lower !== null), (column) => d3.count(found.runs, (run) => run.values[column.name])); // the first of those that most runs have
  const runs = found.runs.filter((run) => run.recipe !== null);
  const varied = new Set(["seed", ...(found.varied.length ? found.varied : found.settings)]); // the others are only in the tables
  const settings = found.run_settings.map((name, i) => ({ name, of: (run) => asNumber(run.settings[i]) })).filter((axis) => varied.has(axis.name));
  const axes = [...settings,
    ...d3.sort(found.columns.filter((column) => column.name !== "seconds"), (column) => column !== ranked).slice(0, 3).map((column) => ({ name: column.name, of: (run) => run.values[column.name] }))];
  if (runs.length < 2 || !settings.length || !ranked) return null;
  const points = [], labels = [];
  for (const axis of axes) {
    const values = runs.map(axis.of).filter((value) => value !== undefined && value !== found.missing);
    const numeric = values.length > 0 && values.every((value) => typeof value === "number");
    const [low, high] = numeric ? range(values) : [null, null];
    const log = numeric && low > 0 && high / low > 20;
    const distinct = [...new Set(values)].sort(compared);
    const place = !numeric ? d3.scalePoint(distinct, [0.02, 0.98]) : (log ? d3.scaleLog : d3.scaleLinear)([low, high], [0.02, 0.98]);
    const ticks = numeric && distinct.length > 6 ? d3.extent(values) : distinct;
    labels.push(...ticks.map((value) => ({ axis: axis.name, at: place(value), text: numeric ? number(value) : shortened(String(value), 18) })));
    for (const run of runs) {
      const value = axis.of(run);
      if (value !== undefined && value !== found.missing) points.push({ axis: axis.name, at: place(value), run: run.name, score: run.values[ranked.name], value });
    }
  }
  const said = "Parallel coordinates of the settings that differ";
  return [h("div", { class: "scroll wide", tabindex: "0", role: "group", "aria-label": said }, chart(said, (width) => Plot.plot({
    width: Math.max(width, axes.length * Math.max(110, 7 * d3.max(axes, (axis) => axis.name.length))), height: 340, style: plotStyle, marginLeft: 60, marginRight: 60, marginTop: 30,
    x: { domain: axes.map((axis) => axis.name), type: "point", label: null, axis: "top" }, y: { axis: null, domain: [0, 1] },
    color: { scheme: "viridis", reverse: !ranked.lower, legend: true, label: ranked.name, tickFormat: number },
    marks: [
      Plot.ruleX(axes.map((axis) => axis.name), { stroke: "currentColor", strokeOpacity: 0.3 }),
      Plot.line(points.filter((point) => point.score === undefined), { x: "axis", y: "at", z: "run", stroke: "currentColor", strokeOpacity: 0.25, curve: "bump-x" }),
      Plot.line(points.filter((point) => point.score !== undefined), { x: "axis", y: "at", z: "run", stroke: "score", strokeWidth: 1.6, strokeOpacity: 0.85, curve: "bump-x" }),
      Plot.text(labels, { x: "axis", y: "at", text: "text", textAnchor: "start", dx: 5, stroke: "var(--ground)", fill: "currentColor", strokeWidth: 4 }),
      Plot.tip(points, Plot.pointer({ x: "axis", y: "at", title: (point) => `${point.run}\n${point.axis}: ${typeof point.value === "number" ? number(point.value) : point.value}` })),
    ],
  }))), h("p", { class: "soft" }, `One line per run, coloured by ${ranked.name}; grey without it.`)];
}

/** The validation error curves of each recipe, on the same scales. */
function smallMultiples(found) {
  const curves = found.runs.filter((run) => run.curve?.step.length).flatMap((run) => run.curve.step.map((step, i) => (
    { step, value: run.curve.value[i], run: run.name, recipe: found.recipes[run.recipe].name }))).filter((row) => row.value > 0);
  if (!curves.length) return null;
  const labels = [...new Set(curves.map((row) => row.recipe))];
  const last = d3.max(curves, (row) => row.step), y = positiveAxis(curves.map((row) => row.value), 140);
  return h("div", { class: "pair" }, labels.map((label) => chart(`Validation error of ${label}`, (width) => Plot.plot({
    width, height: 196, style: plotStyle, marginLeft: 50, marginBottom: 36, title: label,
    x: { ...stepAxis(last, width - 70), label: "training step" }, y: bare(y),
    marks: [
      labelled(y),
      Plot.line(curves.filter((row) => row.recipe !== label), { x: "step", y: "value", z: "run", stroke: "currentColor", strokeOpacity: 0.12 }),
      Plot.line(curves.filter((row) => row.recipe === label), { x: "step", y: "value", z: "run", stroke: PALETTE[0], strokeWidth: 1.8, marker: "dot" }),
      Plot.tip(curves.filter((row) => row.recipe === label), Plot.pointer({ x: "step", y: "value", title: (row) => `${row.run}\nstep ${grouped(row.step)}\n${number(row.value)}` })),
    ],
  }))));
}

const named = (run, found) => (run.recipe === null ? run.name : `${found.recipes[run.recipe].name} (${run.name})`);

function sideBySide(found) {
  const drawn = found.runs.filter((run) => run.picture);
  if (drawn.length < 2) return null;
  return h("div", { class: "pair" }, drawn.map((run) => h("figure", {},
    h("img", { src: run.picture.src, width: run.picture.columns * run.picture.width * 2, alt: `Samples of ${named(run, found)}` }),
    h("figcaption", {}, named(run, found)))));
}

/** Two overlaid runs with a movable divider, and a table of their different settings and their numbers. */
function swipe(found) {
  const drawn = found.runs.filter((run) => run.picture);
  const shape = ({ picture }) => `${picture.columns} ${picture.width} ${picture.height}`;
  const alike = d3.greatest(d3.groups(drawn, shape), ([, runs]) => runs.length)?.[1] ?? [];
  if (alike.length < 2) return null;
  const place = (key) => { const i = alike.findIndex((run) => run.name === swiped[key]); return i < 0 ? Number(key === "b") : i; };
  const box = h("div", { class: "swipe" }), difference = h("div");
  function fill() {
    const [a, b] = [alike[place("a")], alike[place("b")]];
    const half = Math.ceil(a.picture.columns / 2);
    const tiles = Array.from({ length: a.picture.columns }, (_, i) => [0, i]);
    const [left, right] = [a, b].map((run) => { const canvas = tilesOf(run.picture, half, 2, `Samples of ${named(run, found)}`); canvas.show(tiles); return canvas; });
    box.replaceChildren(right, left);
    left.style.clipPath = `inset(0 ${100 - swiped.at}% 0 0)`;
    const rows = found.run_settings.map((name, i) => [name, a.settings[i], b.settings[i]]).filter(([, x, y]) => x !== y);
    const numbers = found.columns.map((column) => [column.name, a.texts[column.name] ?? MISSING, b.texts[column.name] ?? MISSING]);
    difference.replaceChildren(table([{ name: "" }, { name: `A: ${a.name}` }, { name: `B: ${b.name}` }], [...rows, ...numbers], "Differences between A and B"));
  }
  const pick = (key, label) => h("label", {}, `${label} `, h("select", { "aria-label": label, onchange: (event) => { swiped[key] = alike[event.target.value].name; fill(); } },
    alike.map((run, i) => h("option", { value: i, selected: i === place(key) }, named(run, found)))));
  const line = slider("line between A and B", 100, swiped.at, (at) => {
    swiped.at = at;
    if (box.lastChild) box.lastChild.style.clipPath = `inset(0 ${100 - at}% 0 0)`;
    return `A ${at}%`;
  });
  fill();
  line.input.set(swiped.at);
  return [h("div", { class: "controls" }, pick("a", "A, left"), pick("b", "B, right")), line.element, box, difference];
}

function runsTable(found) {
  const columns = [{ name: "run" }, { name: "state" }, ...found.run_settings.map((name) => ({ name })), ...found.columns.map((column) => ({ name: column.name, number: true, title: unmarked(column.words) }))];
  const rows = found.runs.map((run) => ({
    cells: [run.link ? h("a", { href: run.link }, run.name) : run.name, run.state, ...run.settings, ...found.columns.map((column) => run.texts[column.name])],
    values: [run.name, run.state, ...run.settings.map(asNumber), ...found.columns.map((column) => run.values[column.name])],
    text: [run.name, run.state, ...run.settings.map((value, i) => `${found.run_settings[i]}=${value}`)].join(" "),
  }));
  return sortable(columns, rows, "Runs");
}
