"use strict";
// The list of the runs below a folder.

function indexPage(found) {
  const linked = (each) => (each.link ? h("a", { href: each.link }, each.name) : each.name);
  const columns = [{ name: "run" }, { name: "samples", plain: true }, { name: "state" }, { name: "step", number: true }, { name: "left", number: true }, { name: "score", number: true }, { name: "last written" }];
  const rows = found.runs.map((run) => ({
    cells: [linked(run), run.picture ? h("img", { src: run.picture.src, width: run.picture.columns * run.picture.width, alt: `Samples of ${run.name}` }) : null,
      [h("span", { class: `badge ${run.state.replace(/\W/g, "")}` }, run.state), run.reason ? h("div", { class: "soft" }, run.reason) : null],
      run.steps === null ? null : run.total_steps ? `${grouped(run.steps)} of ${grouped(run.total_steps)}` : grouped(run.steps), run.left,
      run.metric ? `${run.metric} ${run.score}` : null, new Date(1000 * run.written).toLocaleString()],
    values: [run.name, null, run.state, run.steps, run.seconds_left, run.value === null ? null : [run.metric, run.value], run.written],
    text: `${run.name} ${run.state} ${run.command} ${run.reason}`,
  }));
  const scored = (each) => h("li", {}, linked(each), ` (diffusion.${each.command}): ${each.metric} ${each.score}`);
  return [
    found.runs.length ? null : h("p", {}, "No runs yet."),
    found.runs.length ? section("Runs", sortable(columns, rows, "Runs")) : null,
    found.sweeps.length ? section("Sweeps", h("ul", {}, found.sweeps.map((sweep) => h("li", {}, linked(sweep), ` (${sweep.runs} ${sweep.runs === 1 ? "run" : "runs"})`)))) : null,
    found.scored.length ? section("Evaluations and studies", h("ul", {}, found.scored.map(scored))) : null,
    found.others.length ? h("p", { class: "soft" }, `Not listed: ${found.others.map(([command, count]) => `${count} × diffusion.${command}`).join(", ")}.`) : null,
  ];
}
