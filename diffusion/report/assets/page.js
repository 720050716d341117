"use strict";
// Makes a page interactive: tables that sort, sliders, charts that can be read. A live page replaces what has changed.

/** Create an element with attributes and children; an attribute `onNAME` is an event listener. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** A slider from 0 to `last`; `change(i)` returns the text shown next to it. `set(i)` moves it. */
function slider(label, last, first, change) {
  const text = h("output", { class: "soft" });
  const input = h("input", { type: "range", min: 0, max: last, step: 1, value: first, "aria-label": label, oninput: () => set(Number(input.value)) });
  const set = (i) => {
    input.value = i;
    text.textContent = change(Number(input.value));
    input.setAttribute("aria-valuetext", text.textContent);
  };
  set(first);
  return { input, set, element: h("div", { class: "controls" }, h("span", {}, label), input, text) };
}

// ------------------------------------------------------------------------------------------------------- tables

/** Order of two cells: numbers before words, the largest first if `down`; missing values last. */
function compared(a, b, down) {
  if (a === "—" || b === "—") return (a === "—") - (b === "—");
  const [x, y] = [Number(a), Number(b)], numbers = a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y);
  return (down ? -1 : 1) * (numbers ? x - y : a.localeCompare(b, undefined, { numeric: true }));
}

function sortable(table) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const value = (row, i) => row.cells[i].dataset.value ?? row.cells[i].textContent;
  heads.forEach((head, i) => head.replaceChildren(h("button", { type: "button", onclick: () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows.sort((a, b) => compared(value(a, i), value(b, i), down)));
  } }, head.textContent)));
  if (rows.length < 8) return;
  const count = h("span", { class: "soft", role: "status" });
  table.parentNode.before(h("div", { class: "controls" }, h("input", { type: "search", placeholder: "filter", "aria-label": `Filter: ${table.caption.textContent}`, oninput: (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    const left = rows.filter((row) => !row.hidden).length;
    count.textContent = left < rows.length ? `${left} of ${rows.length} rows` : "";
  } }), count));
}

// ----------------------------------------------------------------------------------------- pictures, linked steps

/** A slider for all that a group contains: rows of images, and charts by training step. */
function linked(group) {
  const texts = JSON.parse(group.dataset.texts), steps = JSON.parse(group.dataset.steps || "[]"), last = texts.length - 1;
  const rows = [...group.querySelectorAll(".rows")], charts = steps.length ? [...group.querySelectorAll(".chart svg")] : [];
  const labels = rows.map((each) => each.getAttribute("aria-label"));
  const control = slider(group.dataset.label, last, last, (i) => {
    rows.forEach((each, k) => {
      const at = each.dataset.at ? JSON.parse(each.dataset.at)[i] : i;
      each.firstChild.style.transform = `translateY(${(-100 * at) / each.dataset.rows}%)`;
      each.setAttribute("aria-label", `${labels[k]}, ${texts[i]}`);
    });
    for (const chart of charts) select(chart, steps[i]);
    return texts[i];
  });
  group.addEventListener("step", (event) => {
    const away = steps.map((step) => Math.abs(step - event.detail));
    control.set(away.indexOf(Math.min(...away)));
  });
  if ("play" in group.dataset) {
    let timer = null;
    const stop = () => { clearInterval(timer); timer = null; button.textContent = "play"; };
    const button = h("button", { class: "plain", type: "button", onclick: () => {
      if (timer) { stop(); return; }
      if (Number(control.input.value) >= last) control.set(0);
      button.textContent = "pause";
      timer = setInterval(() => { control.set(Number(control.input.value) + 1); if (Number(control.input.value) >= last) stop(); }, 120);
    } }, "play");
    control.element.append(button);
  }
  group.prepend(control.element);
}

const drawn = (name, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

/** Show the selected step in a chart: a rule on an axis of steps; in others, its curve or the nearest one. */
function select(chart, step) {
  chart.querySelector(".selected")?.remove();
  if (chart.dataset.rule) {
    const [zero, each, top, bottom] = JSON.parse(chart.dataset.rule), x = zero + each * step;
    chart.append(drawn("line", { class: "selected", x1: x, x2: x, y1: top, y2: bottom }));
  }
  const away = (curve) => Math.abs(Number(curve.id.split("-step-")[1]) - step);
  const curves = [...chart.querySelectorAll('[id*="-step-"]')].sort((a, b) => away(a) - away(b));
  curves.forEach((curve, i) => curve.classList.toggle("now", i === 0));
}

/** Show the text of the point next to the pointer; a click selects its step. */
function readable(chart) {
  const points = JSON.parse(chart.dataset.points), tip = h("div", { class: "tip", hidden: true });
  if (!points.length) return;
  const dot = drawn("circle", { class: "dot", r: 3.5, visibility: "hidden" });
  chart.append(dot);
  const figure = chart.closest("figure");
  figure.append(tip);
  let text = "";
  chart.addEventListener("pointermove", (event) => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    const away = ([px, py]) => Math.hypot(px - x, py - y), near = points.reduce((a, b) => (away(b) < away(a) ? b : a));
    const shown = away(near) < 25, box = figure.getBoundingClientRect();
    tip.hidden = !shown;
    dot.setAttribute("visibility", shown ? "visible" : "hidden");
    dot.setAttribute("cx", near[0]);
    dot.setAttribute("cy", near[1]);
    tip.textContent = text = near[2].trim();
    tip.style.left = `${Math.max(0, Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${event.clientY - box.top + 16}px`;
  });
  chart.addEventListener("pointerleave", () => { tip.hidden = true; dot.setAttribute("visibility", "hidden"); });
  chart.addEventListener("click", () => {
    const step = /\bstep ([\d,]+)/.exec(text);
    if (step) chart.dispatchEvent(new CustomEvent("step", { detail: Number(step[1].replaceAll(",", "")), bubbles: true }));
  });
}

function zoomable(box) {
  const image = box.firstChild, natural = Number(image.getAttribute("width")), steps = [0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8];
  const first = Math.max(0, steps.findLastIndex((scale) => scale * natural <= 1024));
  box.before(slider("zoom", steps.length - 1, first, (i) => { image.style.width = `${steps[i] * natural}px`; return `${steps[i]}×`; }).element);
}

/** Two of the runs above, one over the other with a movable divider, and a table of where they differ. */
function swipe(box) {
  const runs = [...document.querySelectorAll("figure[data-run]")].map((figure) => ({ figure, image: figure.querySelector("img"), name: figure.textContent, row: Number(figure.dataset.run) }));
  const size = ({ image }) => `${image.getAttribute("width")} ${image.dataset.height}`;
  const alike = runs.filter((run) => size(run) === size(runs[0]));
  if (alike.length < 2) { box.parentNode.hidden = true; return; }
  const over = h("div", { class: "swipe" }), differences = h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Differences between A and B" });
  const table = document.querySelector("#runs table"), lines = [...table.tBodies[0].rows], heads = [...table.tHead.rows[0].cells];
  const picks = ["A, left", "B, right"].map((label, k) => h("select", { "aria-label": label, onchange: () => fill() }, alike.map((run, i) => h("option", { value: i, selected: i === k }, run.name))));
  function fill() {
    const [a, b] = picks.map((pick) => alike[Number(pick.value)]);
    over.replaceChildren(...[b, a].map((run) => { const image = run.image.cloneNode(); image.removeAttribute("width"); return image; }));
    divide(Number(line.input.value));
    const cells = [a, b].map((run) => [...lines[run.row].cells].map((cell) => cell.textContent));
    const rows = heads.map((head, i) => [head.textContent, cells[0][i], cells[1][i]]).filter(([, x, y]) => x !== y);
    differences.replaceChildren(h("table", {}, rows.map(([name, ...pair]) => h("tr", {}, h("th", { scope: "row" }, name), pair.map((text) => h("td", {}, text))))));
  }
  const divide = (at) => { if (over.lastChild) over.lastChild.style.clipPath = `inset(0 ${100 - at}% 0 0)`; return `A ${at}%`; };
  const line = slider("line between A and B", 100, 50, divide);
  fill();
  box.append(h("div", { class: "controls" }, picks.map((pick) => h("label", {}, `${pick.getAttribute("aria-label")} `, pick))), line.element, over, differences);
}

// -------------------------------------------------------------------------------------------------- live pages

function enhance(root) {
  for (const [what, make] of [["table", sortable], [".chart svg", readable], [".linked", linked], [".zoomed", zoomable], [".swipes", swipe]]) root.querySelectorAll(what).forEach(make);
}

/** What the reader has unfolded, set and typed in a section, and its focus: passed on to the newer section. */
function carryOver(old, now) {
  const pairs = (what) => [...old.querySelectorAll(what)].map((each, i) => [each, now.querySelectorAll(what)[i]]).filter(([, next]) => next);
  for (const [before, next] of pairs("details")) next.open = before.open;
  for (const [before, next] of pairs("input, select")) {
    if (before.type === "range" && before.value === before.max) continue; // keeps following the last step
    next.value = before.value;
    next.dispatchEvent(new Event(next.matches("select") ? "change" : "input"));
  }
  for (const [before, next] of pairs("[aria-sort]")) next.setAttribute("aria-sort", before.getAttribute("aria-sort"));
  const boxes = pairs("[tabindex]").map(([before, next]) => [next, before.scrollLeft, before.scrollTop]);
  const focus = pairs("input, select, button, summary, a, [tabindex]").find(([before]) => before === document.activeElement);
  const caret = focus && focus[0].type === "search" ? focus[0].selectionStart : null;
  old.replaceWith(now);
  for (const [box, left, top] of boxes) [box.scrollLeft, box.scrollTop] = [left, top];
  focus?.[1].focus({ preventScroll: true });
  if (caret !== null) focus[1].setSelectionRange(caret, caret);
}

/** Replace the sections that a newer page has changed, and the heading. */
function update(newer) {
  const page = document.getElementById("page");
  page.querySelector("header").replaceWith(newer.querySelector("header"));
  for (const old of page.querySelectorAll("section")) if (!newer.querySelector(`#${old.id}`)) old.remove();
  let place = page.querySelector("header");
  for (const now of [...newer.querySelectorAll("section")]) {
    const old = page.querySelector(`#${now.id}`);
    if (old?.dataset.made !== now.dataset.made) {
      if (!old) place.after(now);
      enhance(now);
      if (old) carryOver(old, now);
      place = now;
    } else place = old;
  }
}

/** Ask for a newer page every few seconds; its version tells whether anything has changed. */
async function follow({ version, refresh }) {
  for (;;) {
    await new Promise((wake) => setTimeout(wake, 1000 * refresh));
    if (document.hidden || document.querySelector("#page :active")) continue;
    let silent = false;
    try {
      const answer = await fetch(location.href, { headers: { "If-None-Match": version }, cache: "no-store" });
      silent = answer.status >= 400;
      if (answer.status === 200) {
        const newer = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("page");
        version = newer.dataset.version;
        update(document.adoptNode(newer));
      }
    } catch {
      silent = true; // the server has stopped; keep the current page
    }
    document.body.classList.toggle("silent", silent);
  }
}

const page = document.getElementById("page");
enhance(page);
if (page.dataset.version) follow(page.dataset);
