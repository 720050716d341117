"use strict";
// Makes a page interactive: tables that sort, sliders, charts that can be read. A live page replaces what has changed.

/** Create an element with attributes and children; an attribute `onNAME` is an event listener. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

/** A slider from 0 to `last`; `change(i)` returns the text shown next to it. `set(i)` moves it. */
function slider(label, last, first, change) {
  const text = h("output", { class: "soft" });
  const input = h("input", { type: "range", min: 0, max: last, step: 1, "aria-label": label, oninput: () => set(Number(input.value)) });
  const set = (i) => {
    input.value = i;
    text.textContent = change(Number(input.value));
    input.setAttribute("aria-valuetext", text.textContent);
  };
  set(first);
  return { input, set, element: h("div", { class: "controls" }, h("span", {}, label), input, text) };
}

/** Tables are sorted by a click on a head: numbers by size, missing values last. */
function sortable(table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const number = (text) => parseFloat(text.replaceAll(",", ""));
  const order = (a, b) => (isNaN(number(a)) || isNaN(number(b)) ? a.localeCompare(b, undefined, { numeric: true }) : number(a) - number(b));
  heads.forEach((head, i) => head.replaceChildren(h("button", { type: "button", onclick: () => {
    const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1, text = (row) => row.cells[i].textContent;
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down < 0 ? "descending" : "ascending");
    body.append(...[...body.rows].sort((a, b) => (text(a) === "—") - (text(b) === "—") || down * order(text(a), text(b))));
  } }, head.textContent)));
}

/** A slider for its section: for rows of images and, if it has training steps, for the charts. */
function linked(place) {
  const section = place.closest("section"), texts = JSON.parse(place.dataset.texts), steps = JSON.parse(place.dataset.steps), last = texts.length - 1;
  const rows = [...section.querySelectorAll(".rows")].map((box) => ({ box, at: JSON.parse(box.dataset.at ?? "null"), label: box.getAttribute("aria-label") }));
  const control = slider(place.dataset.label, last, last, (i) => {
    for (const { box, at, label } of rows) {
      box.firstChild.style.transform = `translateY(${(-100 * (at ? at[i] : i)) / box.dataset.rows}%)`;
      box.setAttribute("aria-label", `${label}, ${texts[i]}`);
    }
    if (steps.length) for (const chart of section.querySelectorAll(".chart svg")) select(chart, steps[i]);
    return texts[i];
  });
  section.addEventListener("step", (event) => control.set(steps.indexOf(nearest(steps, (step) => Math.abs(step - event.detail)))));
  if ("play" in place.dataset) {
    const now = () => Number(control.input.value);
    control.element.append(h("button", { class: "plain", type: "button", onclick: () => {
      if (now() >= last) control.set(0);
      const timer = setInterval(() => { control.set(now() + 1); if (now() >= last) clearInterval(timer); }, 120);
    } }, "play"));
  }
  place.append(control.element);
}

const nearest = (all, away) => all.reduce((a, b) => (away(b) < away(a) ? b : a));

/** Show the selected step in a chart: a rule on an axis of steps; in others, the nearest curve. */
function select(chart, step) {
  chart.querySelector(".selected")?.remove();
  if ("byStep" in chart.dataset) {
    const [left, top, right, bottom, first, , last] = JSON.parse(chart.dataset.axes)[0];
    const x = left + ((right - left) * (step - first)) / (last - first), line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("class", "selected");
    line.setAttribute("d", `M ${x} ${top} V ${bottom}`);
    chart.append(line);
  }
  const curves = [...chart.querySelectorAll('[id*="-step-"]')];
  if (!curves.length) return;
  const now = nearest(curves, (curve) => Math.abs(Number(curve.id.split("-step-")[1]) - step));
  for (const curve of curves) curve.classList.toggle("now", curve === now);
}

/** Show the coordinates under the pointer; a click on an axis of steps selects the step. */
function readable(chart) {
  const axes = JSON.parse(chart.dataset.axes), figure = chart.parentNode, tip = h("output", { class: "tip", hidden: true });
  const along = (at, from, to, log) => (log ? from * (to / from) ** at : from + (to - from) * at);
  figure.append(tip);
  const found = (event) => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    const inside = axes.find(([left, top, right, bottom]) => left <= x && x <= right && top <= y && y <= bottom);
    if (!inside) return null;
    const [left, top, right, bottom, x0, y0, x1, y1, xlog, ylog] = inside;
    return [along((x - left) / (right - left), x0, x1, xlog), along((y - top) / (bottom - top), y0, y1, ylog)];
  };
  chart.addEventListener("pointermove", (event) => {
    const place = found(event), box = figure.getBoundingClientRect();
    tip.hidden = !place;
    if (place) tip.textContent = place.map((each) => each.toLocaleString("en-US", { maximumSignificantDigits: 3 })).join(", ");
    tip.style.left = `${Math.max(0, Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${event.clientY - box.top + 16}px`;
  });
  chart.addEventListener("pointerleave", () => { tip.hidden = true; });
  chart.addEventListener("click", (event) => {
    const place = found(event);
    if (place && "byStep" in chart.dataset) chart.dispatchEvent(new CustomEvent("step", { detail: place[0], bubbles: true }));
  });
}

function zoomable(box) {
  const image = box.firstChild, natural = Number(image.getAttribute("width")), scales = [0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8];
  const first = Math.max(0, scales.findLastIndex((scale) => scale * natural <= 1024));
  box.before(slider("zoom", scales.length - 1, first, (i) => { image.style.width = `${scales[i] * natural}px`; return `${scales[i]}×`; }).element);
}

/** Two of the pictures above, one over the other with a movable divider. */
function swipe(box) {
  const images = [...document.querySelectorAll(".pair img")], over = h("div", { class: "swipe" });
  const pick = (label, k) => h("select", { "aria-label": label, onchange: () => fill() }, images.map((image, i) => h("option", { value: i, selected: i === k }, image.alt)));
  const a = pick("A, left", 0), b = pick("B, right", 1);
  const divide = (at) => { if (over.lastChild) over.lastChild.style.clipPath = `inset(0 ${100 - at}% 0 0)`; return `A ${at}%`; };
  const line = slider("line between A and B", 100, 50, divide);
  const fill = () => {
    over.replaceChildren(...[b, a].map(({ value }) => h("img", { src: images[value].src, alt: images[value].alt })));
    divide(Number(line.input.value));
  };
  fill();
  box.append(h("div", { class: "controls" }, [a, b]), line.element, over);
}

function enhance(root) {
  for (const [what, make] of [["table", sortable], [".chart svg", readable], [".slider", linked], [".zoomed", zoomable], [".swipes", swipe]]) root.querySelectorAll(what).forEach(make);
}

/** Replace a section by a newer one, in which the reader's sliders, choices and focus stay. */
function carryOver(old, now) {
  const fields = (section) => [...section.querySelectorAll("input, select")], next = fields(now);
  fields(old).forEach((before, i) => {
    if (!next[i] || (before.type === "range" && before.value === before.max)) return; // keeps following the last step
    next[i].value = before.value;
    next[i].dispatchEvent(new Event(before.matches("select") ? "change" : "input"));
  });
  const focus = next[fields(old).indexOf(document.activeElement)];
  old.replaceWith(now);
  focus?.focus({ preventScroll: true });
}

/** Replace the sections that a newer page has changed, and the heading. */
function update(newer) {
  let place = newer.querySelector("header");
  page.querySelector("header").replaceWith(place);
  for (const old of page.querySelectorAll("section")) if (!newer.querySelector(`#${old.id}`)) old.remove();
  for (const now of [...newer.querySelectorAll("section")]) {
    const old = page.querySelector(`#${now.id}`), same = old?.dataset.made === now.dataset.made;
    if (!old) place.after(now);
    if (!same) enhance(now);
    if (old && !same) carryOver(old, now);
    place = same ? old : now;
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
