"""Which recipe of a comparison is best, in plain words: rules on the means and tests of its table.

No sentence says more than Welch's tests with Holm's correction show, and recipes with one seed are never told apart.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from diffusion.errors import shown
from diffusion.findings.compare import Column, Comparison
from diffusion.findings.faults import headline
from diffusion.findings.numbers import number
from diffusion.findings.verdict import Findings, Step, Verdict, called, like_noise
from diffusion.metric.record import FEW
from diffusion.runs import again
from diffusion.runs.folder import is_sweep

QUESTION = "Which is best?"
MOST = 4  # recipes that a sentence names
DRAWING = r"[+~]*(.*@)?(sampler|guidance|weights)\b"  # overrides of an evaluation that `sample` has, too
LIMITS = ["Which pictures are better to the eye: scores compare whole sets of images. Look at the samples."]
LONGER = "What longer trainings would give: there, the order may be different."


def ranking(comparison: Comparison, folder: Path) -> Verdict:
    main, runs = comparison.main, [run for _, run in comparison.runs]
    if any(run.state != "complete" for run in runs):
        return Verdict(QUESTION, "Not all of these runs are complete, so they are not ranked.")
    if len(comparison.rows) < 2:
        return Verdict(QUESTION, "There is only one recipe, so nothing is ranked.")
    if main is None:
        models = "ckpt=" + ",".join(again.model_of(run) for run in runs)
        score = Step("Score their samples.", [["evaluate", *runs[0].own, "-m", models]])
        scored = runs[0].command != "train"  # by different protocols
        return Verdict(QUESTION, "No number here can rank the recipes.", step=Step() if scored else score)
    step = next_step(comparison, main, folder)
    if all(like_noise(run.scores) for run in runs):
        words = "No recipe is shown to be better than noise, so they are not ranked."
        return Verdict(QUESTION, words, {}, LIMITS, step)
    trained = comparison.rows[main.order[0]].runs[0].command == "train"
    findings = tested(main, comparison.names) | others(comparison, main)
    limits = [*LIMITS, LONGER] if trained else LIMITS
    return Verdict(QUESTION, leader(main, comparison.names), findings, limits, step)


def leader(main: Column, names: Sequence[str]) -> str:
    """The recipe with the best mean, and the next one."""
    first, second, *_ = main.order
    one, two = (mean for i in (first, second) if (mean := main.means[i]))
    gap, (better, most) = abs(one.mean - two.mean), ("higher", "highest") if main.higher else ("lower", "lowest")
    words = [] if all(main.differs.values()) else ["No recipe is shown to be best."]
    words += [f"{names[first]} has the {most} {called(main.name)}: {one} ({main.name}; {better} is better)."]
    words += [f"That is {number(gap, gap)} {better} than the next, {names[second]}: {two}."]
    return " ".join(words)


def tested(main: Column, names: Sequence[str]) -> Findings:
    """What the tests say about the best recipe and the others."""
    rest, unclear = len(main.differs), [names[i] for i in main.order[1:] if not main.differs[i]]
    if {*main.differs.values()} == {None}:
        return {"untested": "With one seed there is no test, so nothing is shown: another seed may change the order."}
    if not unclear:
        return {"shown": "Tests over the seeds show that it is better than every other recipe."}
    more = [f"{len(unclear) - MOST} more"] if len(unclear) > MOST else []
    some = "; ".join([*unclear[:MOST], *more])
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


def next_step(comparison: Comparison, main: Column, folder: Path) -> Step:
    """The most useful next step after a ranking."""
    first, second, *_ = main.order
    best, after = comparison.rows[first], comparison.rows[second]
    run = best.runs[0]
    longer = [again.recipe(run, again.longer(run))]
    if like_noise(run.scores):
        words = "Train for longer: the best is not shown to be better than noise."
        return Step(words, longer) if run.command == "train" else Step()
    if run.command != "train":
        how = [word for word in run.overrides if re.match(DRAWING, word)]
        draw = Step("Draw with the best.", [again.of_model("sample", run, *how, "n=64")])
        return draw if run.config.get("ckpt") else Step()
    if main.differs[second]:
        return Step("Train the best for twice as long.", longer)
    last = max(run.seeds[0] for row in (best, after) for run in row.runs)
    new = ",".join(str(last + i) for i in range(1, 1 + max(2, len(best.runs))))
    place = [f"hydra.sweep.dir={shown(str(folder))}"] if is_sweep(folder) else []
    words = "Train the two best with more seeds." + (" The new runs join this page." if place else "")
    return Step(words, [again.recipe(row.runs[0], "-m", f"seed={new}", *place) for row in (best, after)])
