"""Which recipe of a comparison is best, in plain words: rules on the means and tests of its table.

No sentence says more than Welch's tests with Holm's correction show, and recipes with one seed are never told apart.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from diffusion.errors import command_line
from diffusion.report.compare import Column, Comparison, Row
from diffusion.report.page import Section, escaped, listed
from diffusion.report.scores import number
from diffusion.report.verdict import Findings, Verdict, called, recipe_command
from diffusion.runs.folder import is_sweep

MOST = 4  # recipes that a sentence names
DRAWING = r"[+~]*(.*@)?(sampler|guidance|weights)\b"  # overrides of an evaluation that `sample` has, too
EYE = "Which pictures are better to the eye: scores compare whole sets of images. Look at the samples."
LONGER = "What longer trainings would give: there, the order may be different."


def ranking(comparison: Comparison, folder: Path) -> Verdict:
    """The verdict on the comparison in `folder`."""
    main, rows, runs = comparison.main, comparison.rows, [run for _, run in comparison.runs]
    if any(run.state != "complete" for run in runs):
        return Verdict({"running": "Not all of these runs are complete, so they are not ranked."}, [], "", "")
    if len(rows) < 2:
        return Verdict({"alone": "There is only one recipe, so nothing is ranked."}, [], "", "")
    if main is None:
        command = command_line("evaluate", ["-m", "ckpt=" + ",".join(str(run.folder) for run in runs)])
        return Verdict({"unranked": "No number here can rank the recipes."}, [], "Score their samples.", command)
    first, second, *_ = main.order
    one, two = (mean for i in (first, second) if (mean := main.means[i]))
    gap, better = abs(one.mean - two.mean), "higher" if main.higher else "lower"
    best = (
        f"{comparison.names[first]} has the best {called(main.name)}: {one} ({main.name}; {better} is better). That is "
        f"{number(gap, gap)} {better} than the next, {comparison.names[second]}: {two}."
    )
    findings = {"best": best} | tested(main, comparison.names) | others(comparison, main)
    limits = [EYE, *[LONGER] * (rows[first].runs[0].command == "train")]
    return Verdict(findings, limits, *next_step(comparison, main, folder))


def answered(verdict: Verdict) -> list[Section]:
    """The sections of a page with the answer and the next step."""
    if not verdict.findings:
        return []
    headline, *more = verdict.findings.values()
    limits = ["What these numbers do not show:", listed(verdict.limits)] if verdict.limits else []
    step = [verdict.step, f"```bash\n{verdict.command}\n```"] if verdict.step else []
    return [
        Section("Which is best?", [f"**{escaped(headline)}**", listed(more), *limits]),
        Section("Next step", step),
    ]


def tested(main: Column, names: Sequence[str]) -> Findings:
    """What the tests say about the best recipe and the others."""
    rest, unclear = len(main.shown), [names[i] for i in main.order[1:] if not main.shown[i]]
    if {*main.shown.values()} == {None}:
        return {"untested": "With one seed there is no test, so nothing is shown: another seed may change the order."}
    better = f"Tests over the seeds show that it is better than {rest - len(unclear)} of {rest} others."
    if not unclear:
        return {"shown": better.replace(f"{rest} of {rest} others", "every other recipe")}
    some = "; ".join(unclear[:MOST]) + f"; {len(unclear) - MOST} more" * (len(unclear) > MOST)
    chance = [] if len(unclear) < rest else ["So its first place may be chance."]
    return {"open": " ".join([*([] if chance else [better]), f"Not told apart from it: {some}.", *chance])}


def others(comparison: Comparison, main: Column) -> Findings:
    """Which other columns agree about the best recipe, which show that another one is better, and its flaws."""
    first, findings = main.order[0], Findings()
    ranked = [column for column in comparison.columns if column.order and column != main]
    if same := [column.name for column in ranked if column.order[0] == first]:
        findings["agree"] = f"It is also first by {', '.join(same)}."
    for column in ranked:
        if column.shown.get(first):
            findings[column.name] = f"But by {column.name}, {comparison.names[column.order[0]]} is shown to be better."
        if column.name.startswith("copies") and (mean := column.means[first]) and mean.mean > 0:
            findings["copies"] = f"Suspected copies of training images among its samples: {mean.mean:.1%}."
    if share := max(run.info.get("saturated") or 0 for run in comparison.rows[first].runs):
        findings["saturated"] = f"But up to {share:.0%} of its samples are almost all black, white or of one colour."
    return findings


def next_step(comparison: Comparison, main: Column, folder: Path) -> tuple[str, str]:
    """The most useful next step, in words, and its command."""
    first, second, *_ = main.order
    best, after = comparison.rows[first], comparison.rows[second]
    run, place = best.runs[0], [f"hydra.sweep.dir={folder}"] * is_sweep(folder)
    here = " The new runs join this page." * len(place)
    if run.command != "train":
        drawing = [word for word in run.overrides if re.match(DRAWING, word)]
        return "Draw with the best.", command_line("sample", [f"ckpt={run.config.get('ckpt')}", *drawing, "n=64"])
    if not main.shown[second]:
        last = max(run.seeds[0] for row in (best, after) for run in row.runs)
        new = ",".join(str(last + i) for i in range(1, 1 + max(2, len(best.runs))))
        lines = [recipe_command(row.runs[0], "-m", f"seed={new}", *place) for row in (best, after)]
        return "Train the two best with more seeds." + here, " && \\\n".join(lines)
    if further := beyond(best, comparison.rows):
        seeds = ",".join(str(run.seeds[0]) for run in best.runs)
        words = f"The best {further.partition('=')[0]} is at the end of what was tried: go further.{here}"
        return words, recipe_command(run, "-m", further, f"seed={seeds}", *place)
    trainer = run.config["trainer"]
    limit = "max_steps" if trainer.get("max_steps", -1) > 0 else "max_epochs"
    return "Train the best for twice as long.", recipe_command(run, f"trainer.{limit}={2 * trainer[limit]}")


def beyond(best: Row, rows: Sequence[Row]) -> str | None:
    """A setting of the optimizer, one step further, if its best value is the highest or lowest of at least three."""
    for key, value in best.settings.items():
        line = [row.settings[key] for row in rows if row.settings | {key: value} == best.settings]
        if key.startswith("optimizer.") and len(line) > 2 and all(re.fullmatch(r"[\d.e-]+", each) for each in line):
            tried = sorted(map(float, line), reverse=value == min(line, key=float))
            if tried[-1] == float(value) and min(tried) > 0:
                return f"{key}={tried[-1] ** 2 / tried[-2]:.2g}"
    return None
