"use strict";
// Draws the page for the embedded data. A live page polls its server for newer data and is redrawn, keeping the
// reader's place.

const pages = { run: runPage, comparison: comparisonPage, study: studyPage, index: indexPage, model: (data) => [section("Draw", drawing(data.drawing))] };

function draw(data) {
  const page = document.getElementById("page");
  const sections = pages[data.kind](data).filter(Boolean);
  const head = [h("h1", {}, data.title), data.state ? h("span", { class: `badge ${data.state.replace(/\W/g, "")}` }, data.state) : null];
  if (data.home) head.unshift(h("p", {}, h("a", { href: data.home }, "all runs")));
  const withHeadings = sections.filter((each) => each.matches("section"));
  page.replaceChildren(...head.filter(Boolean), ...(withHeadings.length > 2 ? [contents(withHeadings)] : []), ...sections);
}

/** Poll for the page's data every few seconds; the version tells whether anything is new. */
async function follow(data) {
  let version = data.version;
  for (;;) {
    await new Promise((wake) => setTimeout(wake, 1000 * data.refresh));
    if (document.hidden) continue;
    try {
      const answer = await fetch(data.source, { headers: { "If-None-Match": version }, cache: "no-store" });
      if (answer.status === 200) {
        const newer = await answer.json();
        version = newer.version;
        draw(newer);
      }
      document.body.classList.remove("silent");
    } catch {
      document.body.classList.add("silent"); // the server has stopped; keep the current page
    }
  }
}

const data = JSON.parse(document.getElementById("data").textContent);
draw(data);
if (data.source) follow(data);
