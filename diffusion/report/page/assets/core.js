"use strict";
// Code shared by all pages: elements, charts that follow the window width, tables, pictures cut from sheets.
// All text from the data becomes text nodes, never markup.

/** Create an element with attributes and children; an attribute `onNAME` is an event listener. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

const MISSING = "—";
const grouped = (value) => value.toLocaleString("en-US");

/** Format a number: integers in full, others to four significant digits, with an exponent from 1e6 on and below 1e-4. */
function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return MISSING;
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e15) return grouped(value);
  if (size >= 1e6 || (size > 0 && size < 1e-4)) return value.toExponential(3);
  return String(Number(value.toPrecision(4)));
}

/** 12.3 s, 4 min 10 s, 3 h 20 min: the format of the console. */
function seconds(value) {
  if (value < 90) return `${Number(value.toPrecision(3))} s`;
  const minutes = Math.floor(Math.round(value) / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(value) % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Format bytes with a unit, to three significant digits. */
function size(bytes) {
  const [unit, name] = bytes < 1e6 ? [1e3, "kB"] : bytes < 1e9 ? [1e6, "MB"] : [1e9, "GB"];
  return `${Number((bytes / unit).toPrecision(3))} ${name}`;
}

/** A text with Markdown's `code` as elements. */
const marked = (text) => text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));

/** The same text without the marks, for a tooltip. */
const unmarked = (text) => text?.replaceAll("`", "");

/** A list of what the metrics measure, from (name, words) pairs; metrics with the same words share an entry. */
function notes(pairs) {
  const groups = d3.groups(pairs, ([, words]) => words);
  return h("ul", { class: "soft" }, groups.map(([words, members]) => h("li", {}, members.map(([name]) => name).join(", "), ": ", marked(words))));
}

// ----------------------------------------------------------------------------------------------------- sections

/** A section with a heading for the table of contents; null if it has no content. */
function section(title, ...content) {
  const children = content.flat(Infinity).filter(Boolean);
  if (!children.length) return null;
  const id = title.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  return h("section", { id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), children);
}

function contents(sections) {
  const links = sections.map((each) => h("li", {}, h("a", { href: `#${each.id}` }, each.querySelector("h2").textContent)));
  return h("nav", { "aria-label": "Contents" }, h("ul", {}, links));
}

// ------------------------------------------------------------------------------------------------------- charts

/** A chart drawn by `draw(width)`, redrawn when its width changes. Its element's `redraw()` redraws it immediately. */
function chart(label, draw) {
  const element = h("div", { class: "chart", role: "group", "aria-label": label });
  let width = 0;
  element.redraw = () => {
    if (!width) return;
    const drawn = draw(width);
    for (const svg of drawn.matches?.("svg") ? [drawn] : drawn.querySelectorAll("svg")) {
      if (!svg.closest('[class*="swatch"]')) { svg.setAttribute("role", "img"); svg.setAttribute("aria-label", label); }
    }
    element.replaceChildren(drawn);
  };
  element.fit = () => {
    const now = Math.round(element.clientWidth - parseFloat(getComputedStyle(element).paddingLeft));
    if (now > 0 && Math.abs(now - width) > 1) { width = now; element.redraw(); }
  };
  new ResizeObserver(element.fit).observe(element);
  return element;
}

/** The range of `values`, widened if they are all equal (up to rounding), so that a scale has a width. */
function range(values) {
  const [low, high] = d3.extent(values), size = Math.max(Math.abs(low), Math.abs(high));
  return high - low > 1e-12 * size ? [low, high] : [low - (size / 10 || 1), high + (size / 10 || 1)];
}

/** A linear axis over [low, high] whose labels fit in `pixels`: a domain with round ends, and ticks. */
function linearAxis([low, high], pixels, upright = false) {
  for (let n = Math.max(2, Math.min(8, Math.floor(pixels / 40))); n > 1; n--) {
    const domain = d3.nice(low, high, n), ticks = d3.ticks(...domain, n);
    const each = upright ? 20 : 10 + 7 * d3.max(ticks, (tick) => number(tick).length);
    if (ticks.length > 1 && ticks.length * each <= pixels) return { type: "linear", domain, ticks };
  }
  return { type: "linear", domain: [low, high], ticks: [low, high] };
}

/** An axis of steps from 0. */
function stepAxis(last, pixels) {
  const { ticks } = linearAxis([0, last], pixels);
  return { domain: [0, last], ticks: ticks.filter((step) => Number.isInteger(step) && step <= last), tickFormat: grouped };
}

/** An upright axis of positive numbers: logarithmic with labelled ends, or linear if the ends are close. */
function positiveAxis(values, pixels) {
  const [low, high] = range(values);
  if (high < 3 * low) return linearAxis([low, high], pixels, true);
  const place = d3.scaleLog([low, high], [0, pixels]);
  const inside = (factors) => d3.range(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))).flatMap((power) => factors.map((factor) => Number(`${factor}e${power}`)))
    .filter((tick) => place(tick) > 18 && place(tick) < pixels - 18);
  const apart = (ticks) => d3.pairs(ticks, (a, b) => place(b) - place(a)).every((gap) => gap >= 18);
  const ticks = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 5], [1]].map(inside).find(apart) ?? [];
  return { type: "log", domain: [low, high], ticks: [low, ...ticks, high] };
}

/** Grid lines and labels of an upright axis. (Without an own mark, Plot leaves out some labels of a logarithmic axis.) */
const labelled = ({ ticks }) => [Plot.gridY(ticks), Plot.axisY(ticks, { label: null, text: number })];
const bare = ({ type, domain }) => ({ type, domain, axis: null });

const PALETTE = ["#2f7ed8", "#d9822b", "#2a9d6f", "#c2456f", "#8a63d2", "#8c7a3f", "#3aa6b9", "#7a8796"];
const plotStyle = { fontSize: "12px", background: "transparent", fontFamily: "inherit" };

// ------------------------------------------------------------------------------------------------------- tables

/** A table. Columns are {name, number?, title?}; rows are arrays of cells: text, a number, or an element. */
function table(columns, rows, caption) {
  const shown = (cell) => (typeof cell === "number" ? number(cell) : (cell ?? MISSING));
  const kind = (column) => (column.number ? { class: "number" } : {});
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    h("table", {}, h("caption", { class: "visually-hidden" }, caption),
      h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", title: column.title, ...kind(column) }, column.name)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) => h("td", kind(columns[i]), shown(cell))))))));
}

const sorted = {}; // caption of a table -> how it is sorted and filtered; kept when a live page is redrawn

/** A table that can be sorted by column, with a field to filter its rows. Rows are {cells, values, text}. */
function sortable(columns, rows, caption) {
  const state = (sorted[caption] ??= { by: null, down: false, words: "" });
  const count = h("span", { class: "soft", role: "status" });
  const body = h("tbody");
  const heads = columns.map((column) => h("th", { scope: "col", title: column.title, class: column.number ? "number" : null }, column.plain ? column.name
    : h("button", { type: "button", onclick: () => { state.down = state.by === column.name && !state.down; state.by = column.name; fill(); } }, column.name)));
  function fill() {
    const wanted = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const left = rows.filter((row) => wanted.every((word) => row.text.toLowerCase().includes(word)));
    const by = columns.findIndex((column) => column.name === state.by);
    if (by >= 0) left.sort((a, b) => compared(a.values[by], b.values[by], state.down));
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== by ? "none" : state.down ? "descending" : "ascending"));
    body.replaceChildren(...left.map((row) => h("tr", {},
      row.cells.map((cell, i) => h("td", columns[i].number ? { class: "number" } : {}, cell ?? MISSING)))));
    count.textContent = left.length === rows.length ? `${rows.length} rows` : `${left.length} of ${rows.length} rows`;
  }
  const search = h("input", { type: "search", placeholder: "filter", value: state.words, "aria-label": `Filter: ${caption}`, oninput: (event) => { state.words = event.target.value; fill(); } });
  fill();
  return h("div", {}, h("div", { class: "controls" }, search, count),
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
      h("table", {}, h("caption", { class: "visually-hidden" }, caption), h("thead", {}, h("tr", {}, heads)), body)));
}

/** Sort order: numbers before words, the largest first if `down`; missing values last. */
function compared(a, b, down = false) {
  const missing = (value) => value === null || value === undefined || value === MISSING;
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  if (Array.isArray(a)) return a[0].localeCompare(b[0]) || compared(a[1], b[1], down); // a metric and its value
  const numbers = typeof a === "number" && typeof b === "number";
  return (down ? -1 : 1) * (numbers ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
}

// ------------------------------------------------------------------------------------------------------ pictures

/** A canvas of `columns` × `rows` tiles of a sheet; `show(tiles)` draws them, each given as [row, column] of the sheet. */
function tilesOf(sheet, columns, rows, label) {
  const scale = Math.max(1, Math.min(4, Math.floor(1024 / (columns * sheet.width))));
  const canvas = h("canvas", { width: columns * sheet.width * scale, height: rows * sheet.height * scale, role: "img", "aria-label": label });
  const picture = new Image();
  let wanted = null;
  function paint() {
    if (!picture.complete || !wanted) return;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    wanted.forEach(([row, column], i) => pen.drawImage(picture,
      column * sheet.width, row * sheet.height, sheet.width, sheet.height,
      (i % columns) * sheet.width * scale, Math.floor(i / columns) * sheet.height * scale, sheet.width * scale, sheet.height * scale));
  }
  picture.addEventListener("load", paint);
  picture.src = sheet.src;
  canvas.show = (tiles, said) => { wanted = tiles; if (said) canvas.setAttribute("aria-label", said); paint(); };
  return canvas;
}

/** A slider from 0 to `last` that starts at `first`; `change(i)` returns the text shown next to it. */
function slider(label, last, first, change) {
  const text = h("output", { class: "soft" });
  const input = h("input", { type: "range", min: 0, max: last, step: 1, value: first, "aria-label": label, oninput: () => input.set(Number(input.value)) });
  input.set = (i) => {
    input.value = i;
    const said = change(i);
    text.textContent = said;
    input.setAttribute("aria-valuetext", said);
  };
  return { input, element: h("div", { class: "controls" }, h("span", {}, label), input, text) };
}

let zoomed = null; // the position of the zoom slider; kept when a live page is redrawn

/** A whole sheet, with a zoom slider. */
function zoomable(sheet, label) {
  const image = h("img", { src: sheet.src, alt: label });
  const natural = sheet.columns * sheet.width;
  const steps = [0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8];
  const box = h("div", { class: "zoomed", tabindex: "0", role: "group", "aria-label": label }, image);
  const start = zoomed ?? Math.max(0, steps.findLastIndex((scale) => scale * natural <= 1024));
  const zoom = slider("zoom", steps.length - 1, start, (i) => { zoomed = i; image.style.width = `${steps[i] * natural}px`; return `${steps[i]}×`; });
  zoom.input.set(start);
  return h("div", {}, zoom.element, box);
}
