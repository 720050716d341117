"""Which recipe of a comparison is best, in plain words: rules on the means and tests of its table.

No sentence says more than Welch's tests with Holm's correction show, and recipes with one seed are never told apart.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from diffusion.errors import command_line, shown
from diffusion.metric.record import FEW
from diffusion.report.compare import Column, Comparison
from diffusion.report.faults import headline
from diffusion.report.scores import number
from diffusion.report.verdict import Findings, Verdict, called, like_noise, longer, model_of, recipe_command
from diffusion.runs.folder import is_sweep

QUESTION = "Which is best?"
MOST = 4  # recipes that a sentence names
DRAWING = r"[+~]*(.*@)?(sampler|guidance|weights)\b"  # overrides of an evaluation that `sample` has, too
LIMITS = ["Which pictures are better to the eye: scores compare whole sets of images. Look at the samples."]
LONGER = "What longer trainings would give: there, the order may be different."


def ranking(comparison: Comparison, folder: Path) -> Verdict:
    """The verdict on the comparison in `folder`."""
    main, rows, runs = comparison.main, comparison.rows, [run for _, run in comparison.runs]
    if any(run.state != "complete" for run in runs):
        return Verdict(QUESTION, "Not all of these runs are complete, so they are not ranked.")
    if len(rows) < 2:
        return Verdict(QUESTION, "There is only one recipe, so nothing is ranked.")
    if main is None:
        models = "ckpt=" + ",".join(model_of(run) for run in runs)
        command = command_line("evaluate", [*runs[0].own, "-m", models])
        if runs[0].command != "train":  # they were scored, by different protocols
            return Verdict(QUESTION, "No number here can rank the recipes.")
        return Verdict(QUESTION, "No number here can rank the recipes.", step="Score their samples.", command=command)
    if all(like_noise(run.scores) for run in runs):
        words = "No recipe is shown to be better than noise, so they are not ranked."
        return Verdict(QUESTION, words, {}, LIMITS, *next_step(comparison, main, folder))
    first, second, *_ = main.order
    one, two = (mean for i in (first, second) if (mean := main.means[i]))
    gap, better, most = abs(one.mean - two.mean), *(("higher", "highest") if main.higher else ("lower", "lowest"))
    best = "" if all(main.differs.values()) else "No recipe is shown to be best. "
    best += f"{comparison.names[first]} has the {most} {called(main.name)}: {one} ({main.name}; {better} is "
    best += f"better). That is {number(gap, gap)} {better} than the next, {comparison.names[second]}: {two}."
    findings = tested(main, comparison.names) | others(comparison, main)
    limits = [*LIMITS, LONGER] if rows[first].runs[0].command == "train" else LIMITS
    return Verdict(QUESTION, best, findings, limits, *next_step(comparison, main, folder))


def tested(main: Column, names: Sequence[str]) -> Findings:
    """What the tests say about the best recipe and the others."""
    rest, unclear = len(main.differs), [names[i] for i in main.order[1:] if not main.differs[i]]
    if {*main.differs.values()} == {None}:
        return {"untested": "With one seed there is no test, so nothing is shown: another seed may change the order."}
    if not unclear:
        return {"shown": "Tests over the seeds show that it is better than every other recipe."}
    some = "; ".join([*unclear[:MOST], *([f"{len(unclear) - MOST} more"] if len(unclear) > MOST else [])])
    if len(unclear) == rest:
        return {"open": f"Not told apart from it: {some}. So its first place may be chance."}
    better = f"Tests over the seeds show that it is better than {rest - len(unclear)} of {rest} others."
    return {"open": f"{better} Not told apart from it: {some}."}


def others(comparison: Comparison, main: Column) -> Findings:
    """Which other columns agree about the best recipe, which show that another one is better, and its flaws."""
    first, findings = main.order[0], Findings()
    ranked = [column for column in comparison.columns if column.order and column != main]
    if same := [column for column in ranked if column.order[0] == first]:
        words = [f"{each.name} (shown by tests)" if all(each.differs.values()) else each.name for each in same]
        findings["agree"] = f"It is also first by {', '.join(words)}."
    for column in ranked:
        if column.differs.get(first):
            findings[column.name] = f"But by {column.name}, {comparison.names[column.order[0]]} is shown to be better."
        if column.name.startswith("copies") and (mean := column.means[first]) and mean.mean > 0:
            findings["copies"] = f"Suspected copies of real images among its samples: {mean.mean:.1%}."
    if main.reference is not None and main.reference < FEW:
        findings["few"] = f"But {main.reference} reference images are too few for such a number, so judge by eye."
    if worst := max((run.faults for run in comparison.rows[first].runs), key=len):
        findings["faults"] = f"But its samples have faults. {headline(worst)}"
    return findings


def next_step(comparison: Comparison, main: Column, folder: Path) -> tuple[str, str]:
    """The most useful next step, in words, and its command."""
    first, second, *_ = main.order
    best, after = comparison.rows[first], comparison.rows[second]
    run = best.runs[0]
    if like_noise(run.scores):
        step = "Train for longer: the best is not shown to be better than noise.", recipe_command(run, longer(run))
        return step if run.command == "train" else ("", "")
    if run.command != "train":
        how = [word for word in run.overrides if re.match(DRAWING, word)]
        step = "Draw with the best.", command_line("sample", [*run.own, f"ckpt={model_of(run)}", *how, "n=64"])
        return step if run.config.get("ckpt") else ("", "")
    if main.differs[second]:
        return "Train the best for twice as long.", recipe_command(run, longer(run))
    last = max(run.seeds[0] for row in (best, after) for run in row.runs)
    new = ",".join(str(last + i) for i in range(1, 1 + max(2, len(best.runs))))
    place = [f"hydra.sweep.dir={shown(str(folder))}"] if is_sweep(folder) else []
    lines = [recipe_command(row.runs[0], "-m", f"seed={new}", *place) for row in (best, after)]
    joined = " The new runs join this page." if place else ""
    return f"Train the two best with more seeds.{joined}", " && \\\n".join(lines)
