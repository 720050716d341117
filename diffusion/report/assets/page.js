"use strict";
// Makes a page interactive: tables that sort, sliders, pictures. A live page is loaded again when it has changed.

/** Create an element with attributes and children; an attribute `onNAME` is an event listener. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

/** A slider from 0 to `last`; `change(i)` returns the text shown next to it. `set(i)` moves it. */
function slider(label, last, first, change) {
  const text = h("output", { class: "soft" });
  const set = (i) => {
    input.value = i;
    text.textContent = change(Number(input.value));
    input.setAttribute("aria-valuetext", text.textContent);
  };
  const input = h("input", { type: "range", max: last, "aria-label": label, oninput: () => set(input.value) });
  set(first);
  return { input, set, element: h("div", { class: "controls" }, label, input, text) };
}

/** Tables are sorted by a click on a head: numbers by size, missing values last. */
function sortable(table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const number = (text) => parseFloat((/(?:^|\s)-?\d[\d,.e+-]*/.exec(text)?.[0] ?? "").replaceAll(",", "")); // fd_lite0 78.9: 78.9
  const order = (a, b) => number(a) - number(b) || a.localeCompare(b, undefined, { numeric: true });
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
  const rows = [...section.querySelectorAll(".rows")].map((box) => [box, box.getAttribute("aria-label")]);
  const control = slider(place.dataset.label, last, last, (i) => {
    for (const [box, label] of rows) {
      box.firstChild.style.transform = `translateY(${(-100 * i) / box.dataset.rows}%)`;
      box.setAttribute("aria-label", `${label}, ${texts[i]}`);
    }
    if (steps.length) for (const chart of section.querySelectorAll("[data-rule]")) select(chart, steps[i]);
    return texts[i];
  });
  const play = () => {
    const first = Number(control.input.value) % last;
    for (let i = first; i <= last; i++) setTimeout(control.set, 120 * (i - first), i);
  };
  if ("play" in place.dataset) control.element.append(h("button", { class: "plain", type: "button", onclick: play }, "play"));
  place.append(control.element);
}

/** Show the selected step in a chart over steps, as a rule. */
function select(chart, step) {
  const [zero, each, top, bottom] = JSON.parse(chart.dataset.rule);
  const line = chart.querySelector(".selected") ?? chart.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  line.setAttribute("class", "selected");
  line.setAttribute("d", `M ${zero + each * step} ${top} V ${bottom}`);
}

/** Two of the pictures above, one over the other with a movable divider. */
function swipe(box) {
  const images = [...document.querySelectorAll(".pair img")], [below, above] = [h("img"), h("img")];
  const pick = (label, image, first) => {
    const choose = () => { image.src = images[menu.value].src; image.alt = images[menu.value].alt; };
    const menu = h("select", { "aria-label": label, onchange: choose }, images.map(({ alt }, i) => h("option", { value: i, selected: i === first }, alt)));
    choose();
    return menu;
  };
  const line = slider("line between A and B", 100, 50, (at) => { above.style.clipPath = `inset(0 ${100 - at}% 0 0)`; return `A ${at}%`; });
  box.append(h("div", { class: "controls" }, pick("A, left", above, 0), pick("B, right", below, 1)), line.element, h("div", { class: "swipe" }, below, above));
}

/** The list of runs gets a mark for each run, which the form sends to the page that compares them. */
function choosing(form) {
  for (const link of form.closest("section").querySelectorAll("td:first-child a"))
    link.before(h("input", { type: "checkbox", name: "run", form: form.id, value: decodeURIComponent(link.pathname), "aria-label": `compare ${link.textContent}` }));
}

/** Ask every few seconds for a newer page, and load it; the reader's sliders, choices, marks, order and open parts stay. */
async function follow({ version, refresh }) {
  const fields = [...document.querySelectorAll("input, select, details")], kept = JSON.parse(sessionStorage.getItem(location.href) ?? "{}");
  const marked = (field) => field.type === "checkbox", key = (field, i) => (marked(field) ? field.value : i);
  const state = (field) => (marked(field) ? "checked" : field.matches("details") ? "open" : "value");
  fields.forEach((field, i) => {
    if (!kept[key(field, i)]) return; // a slider at its end keeps following the last step
    field[state(field)] = kept[key(field, i)];
    field.dispatchEvent(new Event(field.matches("select") ? "change" : "input"));
  });
  const heads = [...document.querySelectorAll("th")], clicks = { ascending: 1, descending: 2 };
  for (const i of kept.sorted ?? []) heads[i].firstChild.click();
  for (;;) {
    await new Promise((wake) => setTimeout(wake, 1000 * refresh));
    if (document.hidden || document.querySelector("#page :active")) continue;
    const answer = await fetch(location.href, { headers: { "If-None-Match": version }, cache: "no-store" }).catch(() => null);
    document.body.classList.toggle("silent", !answer || answer.status >= 400);
    if (answer?.status !== 200) continue;
    const chosen = fields.map((field, i) => [key(field, i), field.type === "range" && field.value === field.max ? null : field[state(field)]]);
    const sorted = heads.flatMap((head, i) => Array(clicks[head.getAttribute("aria-sort")] ?? 0).fill(i));
    sessionStorage.setItem(location.href, JSON.stringify({ ...Object.fromEntries(chosen), sorted }));
    return location.reload();
  }
}

for (const [what, make] of [["table", sortable], [".slider", linked], [".swipes", swipe], ["#choose", choosing]]) document.querySelectorAll(what).forEach(make);
const page = document.getElementById("page");
if (page.dataset.version) follow(page.dataset);
