"""How good the samples of a run are, in plain words: rules on its scores, baselines, audit and validation errors.

No sentence says more than the intervals show. The samples are "as close as real ones" only if for every distance the
whole interval is at or below the score of real images. They are never called better than real ones: a distance to few
photographs is lower for their blurred averages than for other photographs.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion.errors import command_line, override, resume_command, shown
from diffusion.metric.record import FEW, Score
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
    "as real": "As close to held-out images as real ones.",
    "mixed": "By one distance as close as real images, by another not.", "behind real": "Not as close as real images.",
    "like noise": "Not shown to be better than noise.", "unclear": "Not shown whether as close as real images.",
    "few": "Too few held-out images for a number.", "no baseline": "Nothing to compare with.",
    "same images": "Drawn from the conditions of the images that they are compared with: judge by eye.",
    "copies": "Some may be copies of training images.", "no copies": "No copies.", "few copies": "No sign of copying.",
    "unclear copies": "Not shown whether some are copies.",
    "falling": "Longer training should help.", "flat": "Longer training alone may not help.",
    "rising": "Trained for too long.", "memorizing": "It memorizes its images.", "no scores": "Not scored.",
}  # fmt: skip
EXPLAINED = (
    "A network that was trained to recognize things describes each image by a list of numbers; the more the lists of "
    "two sets of images differ, the larger is the distance. Held-out images are real ones that training has not used."
)
LIMITS = [
    "Whether a single picture is beautiful: a distance compares whole sets of images. Look at the samples.",
    "What another training would give: this is one seed. Compare recipes with three.",
    "How it compares with papers, which may use other features and other numbers of samples.",
]
Findings = dict[str, str]  # what was found, such as "falling" -> the sentence that says so
Found = Mapping[str, Score]  # what was scored: samples, or a baseline -> its score, all of one protocol


class Verdict(NamedTuple):
    """The answer to a question by numbers, what they do not show, and one next step with its command, if any."""

    question: str
    headline: str
    findings: Findings
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

    Distances may be low for samples that are only black, so the headline leaves them out then.
    """
    findings = closeness(run.scores) | copying(run.scores)
    if state == "complete":
        findings |= training(run.metrics)
        if not any(score.what in ("samples", "images") for score in run.scores):
            findings["no scores"] = "No scores were computed, so no number says how good the samples are."
    found = {fault["fault"]: sentence(fault) for fault in run.faults[:SHOWN]}
    others = [] if "saturated" in found else [HEADLINES[kind] for kind in findings]
    step = next_step(run, state, findings)
    if found and treatment(run, findings) is None and not run.config.get("images"):
        found["untreated"] = "Nothing is known to mend this."
    about = "" if any(score.features == "points" for score in run.scores) else EXPLAINED
    words = " ".join(filter(None, [headline(run.faults), *others]))
    return Verdict("How good is it?", words, found | findings, limits(run), *step, about)


def called(name: str) -> str:
    """The name of a metric in words, such as Fréchet distance for `train/fd_lite0`; an unknown one as it is."""
    return next((words for start, words in NAMES.items() if name.removeprefix("train/").startswith(start)), name)


def closeness(scores: Sequence[Score]) -> Findings:
    """A kind and its sentences: how near the samples are to held-out images, or else to training images.

    It is judged by the latest distances to one split, of which the first one leads.
    """
    protocols: dict[str, dict[str, Score]] = {}  # protocol -> what was scored -> its score
    for score in scores:
        if score.metric.startswith(DISTANCES) and "class" not in score.reference.split:
            protocols.setdefault(score.protocol_key, {})["samples" if score.what == "images" else score.what] = score
    splits: dict[str, list[Found]] = {}
    for one in protocols.values():
        if "samples" in one:
            splits.setdefault(one["samples"].reference.split, []).append(one)
    if not splits:
        return {}
    split = min(splits, key=lambda name: name == "train")
    found, kinds = splits[split], [judged(each) for each in splits[split]]
    lead, kind = found[0]["samples"], kinds[0]
    if lead.metric.startswith("energy"):  # it alone is 0 only for equal distributions
        kinds = kinds[:1]
    pair = ("the training images", "held-out images") if split == "train" else ("held-out images", "other real images")
    what, real = (f"the images of {split}", "training images") if split.endswith(".npz") else pair
    claims = {
        "as real": f"as close to {what} as {real} are",
        "behind real": f"not as close to {what} as {real} are",
        "unclear": f"it is not shown whether they are as close to {what} as {real} are",
        "like noise": "not shown to be better than noise: perhaps the training was far too short, or something failed",
        "no baseline": f"the distance of as many {real} was not measured, so this says little",
        "same images": f"they were drawn from the conditions of {what} themselves, so {real} are no fair measure",
        "few": f"{lead.reference.n} images are too few for such a number, so judge by eye",
    }
    if lead.reference.n is not None and lead.reference.n < FEW:
        kind, kinds = "few", ["few"]
    name = f"{lead.metric}, the {called(lead.metric)} to {what}; lower is closer"
    text = f"{numbers(found[0], real)}: {claims[kind]} ({name})."
    if "as real" in kinds and len({*kinds}) > 1:
        other, its = next(pair for pair in zip(found, kinds, strict=True) if pair[1] != kind)
        claim = claims[its].partition(" to ")[0]
        text += f" By the {called(other['samples'].metric)}, {numbers(other, real)}: {claim}."
        kind = "mixed"
    return {kind: text[0].upper() + text[1:]}


def judged(found: Found) -> str:
    """How a distance of samples compares with that of noise and of real images."""
    low, high = found["samples"].interval or (math.nan, math.nan)
    if "noise" in found and high >= found["noise"].value:
        return "like noise"
    if "real" not in found:
        return "no baseline"
    if low > ends(found["real"])[1]:
        return "behind real"
    if found["samples"].source.get("given") == found["samples"].reference.split:
        return "same images"
    return "as real" if high <= found["real"].value else "unclear"


def numbers(found: Found, real: str) -> str:
    """`other real ones score 97.8, images of noise 278.7, these samples 78.9 ± 2.4`."""
    names = {"real": real, "noise": "images of noise"}
    words = [(name, number(s.value, half_width(s))) for what, name in names.items() if (s := found.get(what))]
    words.append(("these samples", plus_minus(found["samples"].value, half_width(found["samples"]))))
    return ", ".join(f"{name} {'score ' * (not i)}{value}" for i, (name, value) in enumerate(words))


def copying(scores: Sequence[Score]) -> Findings:
    """What the audit for copies says."""
    score = next((score for score in reversed(scores) if score.metric == "copies"), None)
    if score is None or score.interval is None:
        return {}
    (low, high), flagged, repeats = score.interval, score.source.get("flagged", 0), score.source.get("repeats", 0)
    share, chance = f"{score.n:,} samples ({low:.1%} to {high:.1%})", score.source.get("chance", high)
    close, repeating = max(flagged, repeats), score.source.get("repeating", 0)
    if repeats / score.n > repeating or low > chance:
        return {"copies": f"{close} of {share} are very close to a training image: see the pairs."}
    if close:
        words = f"{close} of {share} are close to a training image; by chance, up to {max(chance, repeating):.1%} are"
        unclear = {"unclear copies": f"{words}. That is too little to show that some are copies: see the pairs."}
        return unclear if repeats or score.value > chance else {"few copies": f"{words}."}
    return {"no copies": f"No copies of training images among {share}."}


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


def recipe_command(run: Run, *more: str) -> str:
    """The command that trains the run's recipe from the start, with more overrides, which replace its own."""
    last = str(run.info.get("command", ""))
    every = " ".join([*run.info.get("earlier_commands", []), last]).replace("'", "").split()
    typed = [word for word in every if "=" in word and not word.startswith(("ckpt=", "hydra."))]
    given = [*run.overrides, *typed * ("ckpt=" in last or not run.record)]  # it was resumed, or not started by Hydra
    if tuned := not run.record and run.config.get("name") == "finetune":
        given = [f"init={run.config['init']}", f"data.root={run.config['data']['root']}", *typed]
    keys = {word.partition("=")[0] for word in more}
    words = {key: word for word in given if (key := word.partition("=")[0]) not in keys}
    words |= {word.partition("=")[0]: word for word in more}
    places = [words.pop(key).partition("=")[2] for key in ("init", "data.root") if tuned]
    return command_line("finetune" if tuned else "train", [*run.own, *places, *words.values()])


def longer(run: Run) -> str:
    """The override that makes a training twice as long."""
    trainer = run.settings.get("trainer", {})
    unit = "max_steps" if trainer.get("max_steps", -1) > 0 else "max_epochs"
    return f"trainer.{unit}={2 * trainer.get(unit, 0)}"


def next_step(run: Run, state: str, findings: Findings) -> tuple[str, str]:
    """The most useful next step after these findings, in words, and its command; empty while the run goes on."""
    place, config, guided = place_of(run), run.config, run.settings.get("guidance")
    model = override("ckpt", place if run.command == "train" else config.get("ckpt"))
    sample, audit = (f"{command_line(name, run.own)} {model}" for name in ("sample", "evaluate"))
    shorter = recipe_command(run, f"trainer.max_steps={run.info.get('total_steps', 2) // 2}")
    mend = treatment(run, findings)
    early = recipe_command(run, "guidance=early")
    has = findings.keys()
    points = str((run.settings.get("features") or {}).get("_target_")).endswith("Points")
    looking, pixels = ("", "") if points else (", and look for copies", " 'audit=[pixels]'")
    # until its error no longer falls, or its samples are as close as real ones
    unfinished = {"falling", "like noise"} & has or not {"flat", "as real"} & has
    steps = [
        (state == "running", "", ""),  # it goes on by itself
        (state != "complete", "Go on with the training.", resume_command(place, run.own)),
        (bool(config.get("images")), "", ""),  # of a source that is not known
        (bool(mend), *(mend or ("", ""))),
        ({"no scores", "no baseline"} & has, f"Score its samples{looking}.", f"{audit}{pixels}"),
        (run.command != "train", "Draw more samples.", f"{sample} n=64"),
        ({"copies", "rising", "memorizing"} & has, "Train with more images, or for fewer steps.", shorter),
        (unfinished, "Train for as many steps again.", onward(run)),
        (not guided, "Train with guidance by its early weights, which often helps.", early),
        (True, "Train with other seeds, to see how much is chance.", recipe_command(run, "-m", "seed=0,1,2")),
    ]
    return next((words, command) for fits, words, command in steps if fits)


def treatment(run: Run, findings: Findings) -> tuple[str, str] | None:
    """What mends the clearest fault of which that is known, in words, and its command; see docs/results/treatments."""
    trained, known = run.command == "train", dict[str, tuple[str, str]]()
    found, rate = [fault["fault"] for fault in run.faults], (run.settings.get("optimizer") or {}).get("lr")
    if run.settings.get("guidance"):
        model = override("ckpt", place_of(run) if trained else run.config.get("ckpt"))
        dynamic = f"{command_line('sample', run.own)} {model} n=64 threshold@sampler.threshold=dynamic"
        known["saturated"] = "Draw with a dynamic threshold, and compare the pictures.", dynamic
    elif trained and "rough" in found and rate:
        lower = "Train with a tenth of the learning rate.", recipe_command(run, f"optimizer.lr={rate / 10:g}")
        known |= dict.fromkeys(("rough", "noise", "colour noise", "harsh"), lower)
    elif trained and not findings.keys() & {"flat", "rising", "memorizing", "copies"}:
        known |= dict.fromkeys(("noise", "colour noise"), ("Train for as many steps again.", onward(run)))
    return next((known[name] for name in found if name in known), None)


def place_of(run: Run) -> Path:
    """The shortest path of a run's folder."""
    return Path(min(os.path.relpath(run.folder), str(run.folder.resolve()), key=len))


def onward(run: Run) -> str:
    """The command that trains for as many steps again: from a checkpoint, or from the weights if only they are kept."""
    place, kept = place_of(run), run.settings.get("checkpoint", {}).get("finished")
    if kept == "weights" or not any(run.folder.glob("checkpoints/*.ckpt")):
        return recipe_command(run, f"init={shown(place)}")
    return f"{resume_command(place, run.own)} {longer(run)}"
