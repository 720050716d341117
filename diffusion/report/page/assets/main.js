"use strict";
// Draws the page for the embedded data. A live page polls its server for newer data and is redrawn, keeping the
// reader's place.

const pages = { run: runPage, comparison: comparisonPage, study: studyPage, index: indexPage, model: (data) => [section("Draw", drawing(data.drawing))] };

function draw(data) {
  const page = document.getElementById("page");
  const sections = pages[data.kind](data).filter(Boolean);
  const head = [h("h1", {}, data.title), data.state ? h("span", { class: `badge ${data.state.replace(/\W/g, "")}` }, data.state) : null];
  if (data.home) head.unshift(h("p", {}, h("a", { href: data.home }, "all runs")));
  const withHeadings = sections.filter((each) => each.matches("section")), restore = placeIn(page);
  page.replaceChildren(...head.filter(Boolean), ...(withHeadings.length > 2 ? [contents(withHeadings)] : []), ...sections);
  for (const each of page.querySelectorAll(".chart")) each.fit(); // now: focusing would lay out charts without height, and the page would scroll
  restore();
}

/** Note what is unfolded or scrolled, and the focus with its cursor; the returned function restores them in the redrawn page. */
function placeIn(page) {
  const all = (what) => [...page.querySelectorAll(what)];
  const key = (each) => `${each.closest("section")?.id} ${each.tagName} ${each.getAttribute("aria-label") ?? each.textContent}`;
  const open = new Map(all("summary").map((each) => [key(each), each.parentNode.open]));
  const moved = new Map(all("[tabindex]").map((each) => [key(each), [each.scrollLeft, each.scrollTop]]));
  const focus = page.contains(document.activeElement) ? key(document.activeElement) : null, { selectionStart: caret = null, selectionEnd: end } = document.activeElement ?? {};
  return () => {
    for (const each of all("summary")) each.parentNode.open = open.get(key(each)) ?? each.parentNode.open;
    for (const each of all("[tabindex]")) [each.scrollLeft, each.scrollTop] = moved.get(key(each)) ?? [0, 0];
    const found = focus && all("input, select, button, summary, a, [tabindex]").find((each) => key(each) === focus);
    found?.focus({ preventScroll: true });
    if (found && caret !== null) found.setSelectionRange(caret, end); // of the filter
  };
}

/** Poll for the page's data every few seconds; the version tells whether anything is new. */
async function follow(data) {
  let version = data.version;
  for (;;) {
    await new Promise((wake) => setTimeout(wake, 1000 * data.refresh));
    if (document.hidden || document.querySelector("#page :active")) continue;
    let newer = null, silent = false;
    try {
      const answer = await fetch(data.source, { headers: { "If-None-Match": version }, cache: "no-store" });
      silent = answer.status >= 400;
      if (answer.status === 200) newer = await answer.json();
    } catch {
      silent = true; // the server has stopped; keep the current page
    }
    document.body.classList.toggle("silent", silent);
    if (newer) { version = newer.version; draw(newer); }
  }
}

const data = JSON.parse(document.getElementById("data").textContent);
draw(data);
if (data.source) follow(data);
