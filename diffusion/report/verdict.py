"""How good the samples of a run are, in plain words: rules on its scores, baselines, audit and validation errors.

No sentence says more than the intervals show. Whether samples can be told apart from real images is what the referee
has found (`metric.referee`). Distances alone do not say it: they can be optimised, and are low for copies.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion.config.schema import SCORED
from diffusion.errors import command_line, resume_command, shown
from diffusion.metric.record import FEW, FEW_PHOTOGRAPHS, Score
from diffusion.report.faults import SHOWN, headline, sentence
from diffusion.report.page import SHELL, Section, escaped, listed
from diffusion.report.scores import ends, half_width, number, plus_minus
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
    "unclear copies": "Not shown whether some are copies.", "not audited": "They may be copies.",
    "falling": "Longer training should help.", "flat": "Longer training alone may not help.",
    "rising": "Trained for too long.", "memorizing": "It memorizes its images.", "no scores": "Not scored.",
}  # fmt: skip
EXPLAINED = (
    "The referee looks at samples and real images with several eyes: trained networks, colours, the spectrum, patches, "
    "and random filters that are drawn only when the samples are there. Real images are called apart in at most 5% of "
    "cases, by all eyes together. Held-out images are real ones that training has not used."
)
LIMITS = [
    "Whether a single picture is beautiful: a distance compares whole sets of images. Look at the samples.",
    "What another training would give: this is one seed. Compare recipes with three.",
    "How it compares with papers, which may use other features and other numbers of samples.",
]
FEWER = "The images are too few for so many steps: train with more images, or for fewer steps."
Findings = dict[str, str]  # what was found, such as "falling" -> the sentence that says so
Found = Mapping[str, Score]  # what was scored: samples, or a baseline -> its score, all of one protocol


class Verdict(NamedTuple):
    """The answer to a question by numbers, what they do not show, and one next step with its command, if any."""

    question: str
    headline: str
    findings: Mapping[str, str] = {}
    limits: Sequence[str] = ()
    step: str = ""
    command: str = ""
    about: str = ""  # what the numbers are

    def __str__(self) -> str:
        """The answer and the next step, in lines for the console."""
        step = [f"Next: {self.step}", f"  {self.command}".replace("\n", "\n  ")] if self.step else []
        return "\n".join([f"{self.question} {self.headline}", *self.findings.values(), *step])

    @property
    def sections(self) -> list[Section]:
        """The sections of a page with the answer and the next step."""
        answer = [f"**{escaped(self.headline)}**" if self.headline else "", listed(self.findings.values())]
        if self.limits:
            answer += [self.about, "What these numbers do not show:", listed(self.limits)]
        step = [self.step, SHELL.format(self.command)] if self.step else []
        return [Section(self.question, answer), Section("Next step", step)]


def verdict(run: Run, state: str) -> Verdict:
    """The verdict on a run in this state, or on an evaluation.

    Samples that are only black, or copies, may be near to real images, so the headline leaves the rest out then.
    """
    findings = closeness(run.scores, run.referee) | copying(run.scores)
    audited = any(score.metric == "copies" for score in run.scores)
    if not audited and {"alike", "further alike", "others alike"} & findings.keys():
        findings["not audited"] = "Copies of real images are near to these, too; no audit has looked for copies."
    if state == "complete":
        findings |= training(run.metrics)
        if not any(score.what in ("samples", "images") for score in run.scores):
            findings["no scores"] = "No scores were computed, so no number says how good the samples are."
    found = {fault["fault"]: sentence(fault) for fault in run.faults[:SHOWN]}
    if (grid := f"grid {run.settings.get('model', {}).get('patch')}") in found:
        found[grid] += " It is that of the network's patches (model.patch)."
    others = [] if "saturated" in found else [HEADLINES[kind] for kind in {"copies"} & {*findings} or findings]
    step = next_step(run, state, findings)
    if found and treatment(run, findings) is None and not run.config.get("images"):
        found["untreated"] = "Nothing is known to mend this."
    about = EXPLAINED if "further" in run.referee else ""
    words = " ".join(filter(None, [headline(run.faults), *others]))
    return Verdict("How good is it?", words, found | findings, limits(run), *step, about)


def called(name: str) -> str:
    """The name of a metric in words, such as Fréchet distance for `train/fd_lite0`; an unknown one as it is."""
    return next((words for start, words in NAMES.items() if name.removeprefix("train/").startswith(start)), name)


def leading(scores: Sequence[Score]) -> Found:
    """The latest distances by the first metric to one split: held-out images, or else training images."""
    protocols: dict[str, dict[str, Score]] = {}  # protocol -> what was scored -> its score
    for score in scores:
        if score.metric.startswith(DISTANCES) and "class" not in score.reference.split:
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
    said = {"apart": telling(further["by"], eyes), "alike": f"none of {eyes} eyes tells them apart: nearer {near}"}
    words = said.get(kind, f"none of {eyes} eyes tells them apart, but they may be farther {near}")
    if not found["tiles"]:
        return {kind: f"Against further real images: {words}."}
    findings = {f"further {kind}": f"Against further images of the {known} training photographs: {words}."}
    if others is not None:
        few, kind = held < FEW_PHOTOGRAPHS and others["verdict"] != "apart", others["verdict"]
        words = telling(others["by"], eyes) + f", but only {held} are held out, which show only gross faults" * few
        more = [f" With {n}, as simulated, {telling(by, eyes)}." for n, by in others["with"].items() if kind != "apart"]
        findings[f"others {'few' if few else kind}"] = f"Against other photographs: {words}.{''.join(more)}"
    return findings


def telling(eyes: Sequence[str], total: int) -> str:
    """`lite0, colours and patches tell them apart`, for some eyes of a total number of them."""
    if len(eyes) in (0, total):
        return f"{f'all {total} eyes tell' if eyes else 'none of the eyes tells'} them apart"
    words = " and ".join([", ".join(eyes[:-1]), eyes[-1]] if eyes[1:] else eyes)
    return f"{words} tell{'s' * (len(eyes) == 1)} them apart"


def copying(scores: Sequence[Score]) -> Findings:
    """What the audit for copies says."""
    score = next((score for score in reversed(scores) if score.metric == "copies"), None)
    if score is None or score.interval is None:
        return {}
    (low, high), flagged, chance = score.interval, score.source.get("flagged", 0), score.source.get("chance", 1.0)
    share, held_out = f"{score.n:,} samples ({low:.1%} to {high:.1%})", score.source.get("held_out", 0)
    if not flagged:
        power = f"; of changed copies, {found:.0%} would be found" if (found := score.source.get("found")) else ""
        return {"no copies": f"No copies of real images among {share}{power}."}
    words = f"{flagged} of {share} look like a changed training image"
    words += f" ({held_out} of them like a held-out one)" * (held_out > 0) + f"; by chance, up to {chance:.1%} do."
    if low > chance:
        return {"copies": f"{words} See the pairs."}
    if score.value > chance:
        return {"unclear copies": f"{words} That is too little to show that some are copies: see the pairs."}
    return {"few copies": words}


def training(metrics: Metrics) -> Findings:
    """Whether the validation error still fell, by the medians of the second and the last quarter of the steps.

    It has risen if the median of the last quarter is above the lowest one. The network memorizes if the gap is above 0,
    and above its lowest value by more than half of its interval.
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
    if last < (1 - CHANGE) * second < np.inf:
        change = f"by {1 - last / second:.0%} in its second half"
        return {"falling": f"{error} still fell when the training ended, {change}: twice the steps should help."}
    flat = np.isfinite(second) and last < LEARNED
    return {"flat": f"{error} hardly changed in the second half of the training."} if flat else {}


def limits(run: Run) -> list[str]:
    """What the numbers of the run do not show."""
    distances = [score.reference for score in run.scores if score.metric.startswith(DISTANCES)]
    few = []
    for split, n in {(reference.split, reference.n or 0) for reference in distances if reference.split != "train"}:
        if 0 < (photographs := run.info.get("photographs", {}).get(split, 0)) < n:
            few.append(f"How it is with other photographs: the {n:,} held-out images are cut from only {photographs}.")
    return [*few, *LIMITS] if distances else []


def recipe_command(run: Run, *more: str, init: Path | None = None) -> str:
    """The command that trains the run's recipe from the start, with more words, which replace its own, or weights."""
    name = run.commands[0][0] if run.commands else "train"
    places = ("init", "data.root") if name == "finetune" else ()  # which its first words are
    words = dict(zip(places, run.commands[0][1:] if places else (), strict=False))
    typed = [word for each in run.commands for word in each[1:] if not word.startswith(("ckpt=", "hydra"))]
    for word in [*run.overrides, *typed[len(places) :], *more]:
        words.pop(key := word.partition("=")[0], None)
        words[key] = word
    if init:
        words["init"] = str(init) if places else f"init={shown(str(init))}"
    return command_line(name, [*run.own, *words.values()])


def longer(run: Run) -> str:
    """The override that makes a training twice as long."""
    trainer = run.settings.get("trainer", {})
    unit = "max_steps" if trainer.get("max_steps", -1) > 0 else "max_epochs"
    return f"trainer.{unit}={2 * trainer.get(unit, 0)}"


def next_step(run: Run, state: str, findings: Findings) -> tuple[str, str]:
    """The most useful next step after these findings, in words, and its command; empty while the run goes on."""
    place, config, guided = place_of(run), run.config, run.settings.get("guidance")
    sample, audit = (command_line(name, [*run.own, f"ckpt={model_of(run)}"]) for name in ("sample", "evaluate"))
    errors = run.metrics.get("val/mse")  # the step of the lowest one, or else half of the steps
    best = errors.step[errors.value.argmin()] if errors else 0
    steps = best if 0 < best < run.info.get("total_steps", 2) else run.info.get("total_steps", 2) // 2
    shorter = recipe_command(run, f"trainer.max_steps={steps}")
    mend = treatment(run, findings)
    early = recipe_command(run, "guidance=early")
    has = findings.keys()
    points = str((run.settings.get("features") or {}).get("_target_")).endswith("Points")
    known = points or {"copies", "unclear copies", "few copies", "no copies"} & has
    looking, pixels = ("", "") if known else (", and look for copies", " 'audit=[pixels]'")
    missing = {"no scores", "not judged", "few samples", "not audited"} & has
    score = "Look for copies among its samples." if missing == {"not audited"} else f"Score {SCORED} samples{looking}."
    # until its error no longer falls, or its samples are as close as real ones
    unfinished = {"falling", "like noise"} & has or not {"flat", "alike", "further alike", "as real"} & has
    options = [
        (state == "running", "", ""),  # it goes on by itself
        (state != "complete", "Go on with the training.", resume_command(place, run.own)),
        (bool(config.get("images")), "", ""),  # of a source that is not known
        (bool(mend), *(mend or ("", ""))),
        (missing, score, f"{audit} n={SCORED}{pixels}"),
        (run.command != "train", "Draw more samples.", f"{sample} n=64"),
        ({"copies", "rising", "memorizing"} & has, FEWER, shorter),
        (unfinished, "Train for as many steps again.", onward(run)),
        (not guided, "Train with guidance by its early weights, which often helps.", early),
        (True, "Train with other seeds, to see how much is chance.", recipe_command(run, "-m", "seed=0,1,2")),
    ]
    return next((words, command) for fits, words, command in options if fits)


def treatment(run: Run, findings: Findings) -> tuple[str, str] | None:
    """What mends the clearest fault of which that is known, in words, and its command; see docs/results/treatments."""
    trained, known, has = run.command == "train", dict[str, tuple[str, str]](), findings.keys()
    found, rate = [fault["fault"] for fault in run.faults], (run.settings.get("optimizer") or {}).get("lr")
    noisy = ("rough", "noise", "colour noise", "harsh")
    again = "The training was probably too short: train for as many steps again.", onward(run)
    if run.settings.get("guidance"):
        step = "The guidance is strong: draw with a dynamic threshold, or with a lower guidance.scale."
        words = [*run.own, f"ckpt={model_of(run)}", "n=64", "threshold@sampler.threshold=dynamic"]
        known["saturated"] = step, command_line("sample", words)
    elif trained and rate and "rough" in found and {"flat", "rising"} & has:
        step = "The learning rate is probably too high: train with a tenth of it."
        known |= dict.fromkeys(noisy, (step, recipe_command(run, f"optimizer.lr={rate / 10:g}")))
    elif trained and not {"flat", "rising", "memorizing", "copies"} & has:
        known |= dict.fromkeys(noisy, again)
    short = trained and "like noise" in has and not {"rising", "memorizing"} & has
    return next((known[name] for name in found if name in known), again if short else None)


def place_of(run: Run) -> Path:
    """The shortest path of a run's folder."""
    return Path(min(os.path.relpath(run.folder), str(run.folder.resolve()), key=len))


def model_of(run: Run) -> str:
    """The model of a run or an evaluation, as an override names it."""
    return shown(str(place_of(run)) if run.command == "train" else run.config.get("ckpt"))


def onward(run: Run) -> str:
    """The command that trains for as many steps again: from a checkpoint, or from the weights if only they are kept."""
    place, kept = place_of(run), run.settings.get("checkpoint", {}).get("finished")
    if kept == "weights" or not any(run.folder.glob("checkpoints/*.ckpt")):
        return recipe_command(run, init=place)
    return f"{resume_command(place, run.own)} {longer(run)}"
