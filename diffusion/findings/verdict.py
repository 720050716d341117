"""How good the samples of a run are, in plain words: rules on its scores, baselines, audit and validation errors.

No sentence says more than the intervals show. Whether samples can be told apart from real images is what the referee
has found (`metric.referee`). Distances alone do not say it: they can be optimised, and are low for copies.
"""

import math
from collections.abc import Mapping, Sequence
from textwrap import indent
from typing import Any, NamedTuple

import numpy as np

from diffusion.config.schema import SCORED
from diffusion.errors import UserError, command_line
from diffusion.findings.faults import SHOWN, headline, joined, sentence
from diffusion.findings.numbers import number, plus_minus
from diffusion.findings.scores import ends, half_width
from diffusion.metric.record import FEW, FEW_PHOTOGRAPHS, Score
from diffusion.recipe.assemble import kind_class
from diffusion.recipe.facts import read_facts
from diffusion.runs import again
from diffusion.runs.folder import Metrics, Run

CHANGE = 0.02  # of the validation error, relative: a smaller one counts as none
LEARNED = 0.9  # the error of a network that has learned something; that of one that predicts no noise is 1
NAMES = {  # the beginning of a metric's name -> its name in words
    "fd_": "Fréchet distance", "fid": "FID", "kid": "kernel distance", "cmmd": "CMMD", "energy": "energy distance",
    "bits": "bits per dimension",
    "copies": "share of copies", "val/mse": "error on held-out images",
}  # fmt: skip
DISTANCES = ("fd_", "fid", "kid", "cmmd", "energy")
HEADLINES = {  # what was found, in a few words
    "like noise": "Not shown to be better than noise.",
    "apart": "Told apart from real images.", "alike": "Not told apart from real images.",
    "unclear": "Not shown whether they can be told apart from real images.",
    "further apart": "Told apart from images of the training photographs.",
    "further alike": "Not told apart from further images of the training photographs.",
    "further unclear": "Not shown whether they can be told apart from further images of the training photographs.",
    "others apart": "Told apart from other photographs.", "others alike": "Not told apart from other photographs.",
    "others unclear": "Not shown whether they can be told apart from other photographs.",
    "others few": "Too few photographs to tell them apart from others.",
    "few": "Too few training images for a judgement.", "few samples": "Too few samples for a judgement.",
    "not judged": "Scored, but not judged.",
    "as real": "As close to the data as other draws from it.", "behind real": "Not as close as other draws.",
    "same images": "Drawn from the conditions of the images that they are compared with: judge by eye.",
    "copies": "Some may be copies of real images.", "no copies": "No copies.", "few copies": "No sign of copying.",
    "unclear copies": "Not shown whether some are copies.", "may be copies": "They may be copies.", "not audited": "",
    "falling": "Longer training should help.", "fell": "Longer training may help.",
    "flat": "Longer training alone may not help.",
    "rising": "Trained for too long.", "rose": "Longer training may not help.",
    "memorizing": "It memorizes its images.", "no scores": "Not scored.",
}  # fmt: skip
ALL_COPIES = "All are copies of real images."
EXPLAINED = (
    "The referee looks at samples and real images with several eyes: {eyes}. Real images are called apart in at most "
    "5% of cases, by all eyes together. Held-out images are real ones that training has not used."
)
LIMITS = [
    "Whether a single picture is beautiful: a distance compares whole sets of images. Look at the samples.",
    "What another training would give: this is one seed. Compare recipes with three.",
    "How it compares with papers, which may use other features and other numbers of samples.",
]
FEWER = "The images are too few for so many steps: train with more images, or for fewer steps."
AGAIN = "The training was probably too short: train for as many steps again."
SLOWER = "The learning rate is probably too high: train with a tenth of it."
THRESHOLD = "The guidance is strong: draw with a dynamic threshold, or with a lower guidance.scale."
NOISY = ("rough", "noise", "colour noise", "harsh")  # faults of a network that has not learned to the end
Findings = dict[str, str]  # what was found, such as "falling" -> the sentence that says so
Found = Mapping[str, Score]  # what was scored: samples, or a baseline -> its score, all of one protocol


class Step(NamedTuple):
    """A next step in words, and its commands, one after the other; empty if there is none."""

    words: str = ""
    commands: Sequence[again.Words] = ()

    @property
    def line(self) -> str:
        return " && \\\n".join(map(command_line, self.commands))


class Verdict(NamedTuple):
    """The answer to a question by numbers, what they do not show, and one next step."""

    question: str
    headline: str
    findings: Mapping[str, str] = {}
    limits: Sequence[str] = ()
    step: Step = Step()
    about: str = ""  # what the numbers are

    def __str__(self) -> str:
        """The answer and the next step, in lines for the console."""
        step = [f"Next: {self.step.words}", indent(self.step.line, "  ")] if self.step.words else []
        return "\n".join([f"{self.question} {self.headline}", *self.findings.values(), *step])


def verdict(run: Run, state: str) -> Verdict:
    """The verdict on a run in this state, or on an evaluation.

    Samples that are only black, or copies, may be near to real images, so the headline leaves the rest out then.
    """
    findings, audit = closeness(run.scores, run.referee) | copying(run.scores), audit_of(run.scores)
    scored = any(score.what in ("samples", "images") for score in run.scores)
    if scored and audit is None:
        if {"alike", "further alike", "others alike"} & findings.keys():
            findings["may be copies"] = "Copies were not looked for; they would be near to real images, too."
        else:
            findings["not audited"] = "Copies were not looked for."
    if state == "complete":
        findings |= training(run.metrics)
        if not scored:
            findings["no scores"] = "No scores were computed, so no number says how good the samples are."
    faults = {fault["fault"]: sentence(fault) for fault in run.faults[:SHOWN]}
    if (grid := f"grid {run.settings.get('model', {}).get('patch')}") in faults:
        faults[grid] += " It is that of the network's patches (model.patch)."
    headlines = HEADLINES | ({"copies": ALL_COPIES} if audit and audit.value == 1 else {})
    others = [headlines[kind] for kind in findings if kind == "copies" or "copies" not in findings]
    words = " ".join(filter(None, [headline(run.faults), *([] if "saturated" in faults else others)]))
    if faults and treatment(run, findings) is None and not run.config.get("images"):
        faults["untreated"] = "Nothing is known to mend this."
    further = run.referee.get("further", {})
    about = EXPLAINED.format(eyes=", ".join(further["eyes"])) if further else ""
    step = next_step(run, state, findings)
    return Verdict("How good is it?", words, faults | findings, limits(run), step, about)


def called(name: str) -> str:
    """The name of a metric in words, such as Fréchet distance for `train/fd_lite0`; an unknown one as it is."""
    return next((words for start, words in NAMES.items() if name.removeprefix("train/").startswith(start)), name)


def leading(scores: Sequence[Score]) -> Found:
    """The latest distances by the first metric to one split: held-out images, or else training images."""
    protocols: dict[str, dict[str, Score]] = {}  # protocol -> what was scored -> its score
    for score in scores:
        if score.metric.startswith(DISTANCES):
            what = "samples" if score.what == "images" else score.what
            protocols.setdefault(score.protocol_key, {})[what] = score.paired  # all with the same reference
    found = [one for one in protocols.values() if "samples" in one]
    return min(found, key=lambda one: one["samples"].reference.split == "train", default={})


def like_noise(scores: Sequence[Score]) -> bool:
    """Whether samples are not shown to be nearer to real images than noise is."""
    found = leading(scores)
    return "noise" in found and (found["samples"].interval or (0, math.nan))[1] >= found["noise"].value


def closeness(scores: Sequence[Score], referee: Mapping[str, Any]) -> Findings:
    """Whether the samples can be told apart from real images, or why this is not judged."""
    if not (found := leading(scores)):
        return {}
    lead, real = found["samples"], found.get("real")
    said = f"The {called(lead.metric)} ({lead.metric}) is {plus_minus(lead.value, half_width(lead))}"
    if like_noise(scores):
        return {"like noise": f"{said}, that of noise {number(found['noise'].value)}."}
    if lead.source.get("given") == lead.reference.split:
        return {"same images": "No other images are a fair measure of what was drawn from the conditions of these."}
    if referee:
        return judged(referee)
    if lead.features != "points" or real is None:
        return {"not judged": f"{said}. A distance alone does not say how good they are: it can be low for bad images."}
    low, high = lead.interval or (math.nan, math.nan)  # of the energy distance, which is 0 only for equal distributions
    said += f", that of other draws {number(real.value, half_width(real))}"
    if low > ends(real)[1]:
        return {"behind real": f"{said}."}
    return {"as real" if high <= real.value else "unclear": f"{said}."}


def judged(found: Mapping[str, Any]) -> Findings:
    """The answers of `metric.referee.judge` in words."""
    if found["n"] < FEW:
        return {"few samples": f"{FEW} samples are needed to tell whether they differ from real images."}
    if "further" not in found:
        return {"few": f"{FEW} training images are needed to tell whether samples differ from real ones."}
    further, others, (known, held) = found["further"], found.get("others"), found["photographs"]
    eyes, kind, near = len(further["eyes"]), further["verdict"], f"than two sets of {found['small']} of these"
    words = {
        "apart": telling(further["by"], eyes),
        "alike": f"none of {eyes} eyes tells them apart: nearer {near}",
        "unclear": f"none of {eyes} eyes tells them apart, but they may be farther {near}",
    }[kind]
    if not found["tiles"]:
        return {kind: f"Against further real images: {words}."}
    findings = {f"further {kind}": f"Against further images of the {known} training photographs: {words}."}
    if others is None:
        return findings
    words = f"Against other photographs: {telling(others['by'], eyes)}"
    if others["verdict"] == "apart":
        return findings | {"others apart": f"{words}."}
    more = [f" With {n}, as simulated, {telling(by, eyes)}." for n, by in others["with"].items()]
    if held < FEW_PHOTOGRAPHS:
        few = f"{words}, but only {held} are held out, which show only gross faults."
        return findings | {"others few": "".join([few, *more])}
    return findings | {f"others {others['verdict']}": "".join([f"{words}.", *more])}


def telling(eyes: Sequence[str], total: int) -> str:
    """`lite0, colours and patches tell them apart`, for some eyes of a total number of them."""
    if len(eyes) in (0, total):
        return f"all {total} eyes tell them apart" if eyes else "none of the eyes tells them apart"
    return f"{joined(eyes)} {'tell' if eyes[1:] else 'tells'} them apart"


def audit_of(scores: Sequence[Score]) -> Score | None:
    """The share of copies by the latest audit."""
    return next((score for score in reversed(scores) if score.metric == "copies"), None)


def copying(scores: Sequence[Score]) -> Findings:
    """What the audit for copies says."""
    if (score := audit_of(scores)) is None or score.interval is None:
        return {}
    (low, high), flagged, chance = score.interval, score.source.get("flagged", 0), score.source.get("chance", 1.0)
    share, held_out = f"{score.n:,} samples ({low:.1%} to {high:.1%})", score.source.get("held_out", 0)
    if not flagged:
        found = score.source.get("found")
        power = f"; of changed copies, {found:.0%} would be found" if found else ""
        return {"no copies": f"No copies of real images among {share}{power}."}
    like_held_out = f" ({held_out} of them like a held-out one)" if held_out else ""
    which = "All" if flagged == score.n else f"{flagged} of"
    words = f"{which} {share} look like a changed training image{like_held_out}; by chance, up to {chance:.1%} do."
    if low > chance:
        return {"copies": f"{words} See the pairs."}
    if score.value > chance:
        return {"unclear copies": f"{words} That is too little to show that some are copies: see the pairs."}
    return {"few copies": words}


def training(metrics: Metrics) -> Findings:
    """Whether the validation error still fell, by the medians of the second and the last quarter of the steps.

    It has risen if the median of the last quarter is above the lowest one. The network memorizes if the gap is above 0,
    and above its lowest value by more than half of its interval. Single validations do not show how it would go on.
    """
    if "val/mse" not in metrics:
        return {}
    steps, values = metrics["val/mse"]
    quarters = [values[(steps > i / 4 * steps[-1]) & (steps <= (i + 1) / 4 * steps[-1])] for i in range(4)]
    _, second, third, last = (float(np.median(each)) if len(each) else np.inf for each in quarters)
    error, best = "The error on held-out images", min(second, third)
    if "gap/half" in metrics:
        gap, half = metrics["gap/mse"].value, metrics["gap/half"].value[-1]
        if gap[-1] - max(0, gap.min()) > half:
            return {"memorizing": f"{error} has become higher than that on training images: the network memorizes."}
    if last > (1 + CHANGE) * best:
        return {"rising": f"{error} has risen again, by {last / best - 1:.0%}: it was lowest before the end."}
    few = best == np.inf and len(values) > 1  # all of them in the last quarter
    if few and values[-1] > values.min():
        return {"rose": f"{error} rose at the end; the validations are too few to say since when."}
    if last < (1 - CHANGE) * second < np.inf:
        change = f"by {1 - last / second:.0%} in its second half"
        if min(len(quarters[1]), len(quarters[3])) < 2:
            return {"fell": f"{error} fell, {change}; the validations are too few to say whether it still does."}
        return {"falling": f"{error} still fell when the training ended, {change}: twice the steps should help."}
    flat = values[-1] > (1 - CHANGE) * values[0] if few else np.isfinite(second)
    part = "between the last validations" if few else "in the second half of the training"
    return {"flat": f"{error} hardly changed {part}."} if flat and last < LEARNED else {}


def limits(run: Run) -> list[str]:
    """What the numbers of the run do not show."""
    of_all = [score for score in run.scores if not score.of_class]
    distances = [score.reference for score in of_all if score.metric.startswith(DISTANCES)]
    few = []
    for split, n in {(reference.split, reference.n or 0) for reference in distances if reference.split != "train"}:
        if 0 < (photographs := run.info.get("photographs", {}).get(split, 0)) < n:
            few.append(f"How it is with other photographs: the {n:,} held-out images are cut from only {photographs}.")
    return [*few, *LIMITS] if distances else []


def next_step(run: Run, state: str, findings: Findings) -> Step:
    """The most useful next step after these findings; none while the run goes on."""
    has = findings.keys()
    if state == "running":
        return Step()
    if state != "complete":
        return Step("Go on with the training.", [again.resumed(run)])
    if run.config.get("images"):  # of a source that is not known
        return Step()
    if mend := treatment(run, findings):
        return mend
    audit = audit_of(run.scores) is None and allows(run, "audit")
    missing = {"no scores", "not judged", "few samples"} & has
    if missing or (audit and "may be copies" in has):
        words = f"Score {SCORED} samples{', and look for copies' if audit else ''}."
        words = words if missing else "Look for copies among its samples."
        return Step(words, [again.of_model("evaluate", run, f"n={SCORED}", *(["audit=[pixels]"] if audit else []))])
    if run.command != "train":
        return Step("Draw more samples.", [again.of_model("sample", run, "n=64")])
    if {"copies", "rising", "rose", "memorizing"} & has:
        return Step(FEWER, [again.recipe(run, f"trainer.max_steps={fewer_steps(run)}")])
    # until its error no longer falls, or its samples are as close as real ones
    if {"falling", "fell", "like noise"} & has or not {"flat", "alike", "further alike", "as real"} & has:
        return Step("Train for as many steps again.", [again.onward(run)])
    mapped = str((run.settings.get("sampler") or {}).get("_target_")).endswith("FlowMap")  # which guidance would change
    if not (run.settings.get("guidance") or mapped):
        early = again.recipe(run, "guidance=early")
        return Step("Train with guidance by its early weights, which often helps.", [early])
    return Step("Train with other seeds, to see how much is chance.", [again.recipe(run, "-m", "seed=0,1,2")])


def allows(run: Run, task: str) -> bool:
    """Whether a task makes sense for the kind of the run's data; not if this kind is unknown here."""
    recipe = run.config.get("recipe") or run.config
    contents = {"facts": run.info.get("facts") or run.config.get("facts")}
    try:
        return kind_class(recipe, read_facts(contents, recipe, str(run.folder))).allows(task)
    except UserError:  # such as of a kind that only another config_dir names
        return False


def fewer_steps(run: Run) -> int:
    """The step of the lowest validation error, or else half of the steps."""
    errors, total = run.metrics.get("val/mse"), run.info.get("total_steps", 2)
    best = int(errors.step[errors.value.argmin()]) if errors else 0
    return best if 0 < best < total else total // 2


def treatment(run: Run, findings: Findings) -> Step | None:
    """What mends the clearest fault of which that is known; see docs/results/treatments."""
    faults, rate = [fault["fault"] for fault in run.faults], (run.settings.get("optimizer") or {}).get("lr")
    trained, has = run.command == "train", findings.keys()
    longer, ended = Step(AGAIN, [again.onward(run)]), {"flat", "rising", "rose"} & has
    known: dict[str, Step] = {}
    if run.settings.get("guidance"):
        drawn = again.of_model("sample", run, "n=64", "threshold@sampler.threshold=dynamic")
        known = {"saturated": Step(THRESHOLD, [drawn])}
    elif trained and rate and "rough" in faults and ended:
        known = dict.fromkeys(NOISY, Step(SLOWER, [again.recipe(run, f"optimizer.lr={rate / 10:g}")]))
    elif trained and not ended and not {"memorizing", "copies"} & has:
        known = dict.fromkeys(NOISY, longer)
    short = trained and "like noise" in has and not {"rising", "memorizing"} & has
    return next((known[fault] for fault in faults if fault in known), longer if short else None)
