"""How good the samples of a run are, in plain words: rules on its scores, baselines, audit and validation errors.

No sentence says more than the intervals show. The samples are "as close as real ones" only if for every distance the
whole interval is at or below the score of real images. They are never called better than real ones: a distance to few
photographs is lower for their blurred averages than for other photographs.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion.errors import command_line, override, resume_command, shown
from diffusion.metric.record import FEW, Score
from diffusion.report.scores import half_width, number, plus_minus
from diffusion.runs.folder import Metrics, Run

CHANGE = 0.02  # of the validation error, relative: a smaller one counts as none
NAMES = {  # the beginning of a metric's name -> its name in words
    "fd_": "Fréchet distance", "fid": "FID", "kid": "kernel distance", "cmmd": "CMMD", "precision": "precision",
    "recall": "recall", "coverage": "coverage", "bits": "bits per dimension",
    "copies": "share of copies", "val/mse": "error on held-out images", "fit/mse": "error on training images",
}  # fmt: skip
DISTANCES = ("fd_", "fid", "kid", "cmmd")
HEADLINES = {  # what was found, in a few words
    "saturated": "Something is wrong with many of the samples.", "as real": "As close to held-out images as real ones.",
    "mixed": "By one distance as close as real images, by another not.", "behind real": "Not as close as real images.",
    "like noise": "No better than noise.", "unclear": "Not shown whether as close as real images.",
    "beyond chance": "Not as close as chance allows.", "few": "Too few held-out images for a number.",
    "copies": "Some may be copies of training images.", "no copies": "No copies.", "few copies": "No sign of copying.",
    "falling": "Longer training should help.", "flat": "Longer training alone may not help.",
    "rising": "Trained for too long.", "memorizing": "It memorizes its images.", "no scores": "Not scored.",
    "no baseline": "Nothing to compare with.",
}  # fmt: skip
EXPLAINED = (
    "A network that was trained to recognize things describes each image by a list of numbers; the more the lists of "
    "two sets of images differ, the larger is the distance. Held-out images are real ones that training has not used."
)
Findings = dict[str, str]  # what was found, such as "falling" -> the sentence that says so
Found = Mapping[str, Score]  # what was scored: samples, or a baseline -> its score, all of one protocol


class Verdict(NamedTuple):
    """What the numbers of a run show, what they do not show, and one next step with its command."""

    findings: Findings
    limits: list[str]
    step: str
    command: str

    @property
    def headline(self) -> str:
        """The findings in a few words. Distances may be low for samples that are only black, and are left out then."""
        kinds = ["saturated"] if "saturated" in self.findings else self.findings
        return " ".join(HEADLINES[kind] for kind in kinds if kind in HEADLINES)

    def __str__(self) -> str:
        """The headline and the next step, in lines for the console."""
        return f"How good is it? {self.headline}\nNext: {self.step}\n  {self.command}"


def verdict(run: Run, state: str) -> Verdict:
    """The verdict on a run in this state, or on an evaluation."""
    info, findings = run.info, Findings()
    if state != "complete":
        steps = " of ".join(f"{info[key]:,}" for key in ("steps", "total_steps") if key in info)
        going = "goes on" if state == "running" else f"has ended too early ({state})"
        findings[state] = f"The training {going}" + f", at step {steps}." * bool(steps)
    if share := info.get("saturated"):
        wrong = f"{share:.0%} of the samples are almost entirely black, white or of one colour"
        findings["saturated"] = f"{wrong}: they are drawn wrongly, whatever the distances say."
    findings |= closeness(run.scores) | copying(run.scores)
    if state == "complete":
        findings |= training(run.metrics)
    if state == "complete" and not any(score.what in ("samples", "images") for score in run.scores):
        findings["no scores"] = "No scores were computed, so no number says how good the samples are."
    return Verdict(findings, limits(run), *next_step(run, state, findings))


def called(name: str) -> str:
    """The name of a metric in words, such as Fréchet distance for `train/fd_lite0`; an unknown one as it is."""
    return next((words for start, words in NAMES.items() if name.removeprefix("train/").startswith(start)), name)


def closeness(scores: Sequence[Score]) -> Findings:
    """What the latest distances to each reference say: `kind`, and `train/kind` if it is another one."""
    splits: dict[str, dict[str, dict[str, Score]]] = {}  # split -> protocol -> what was scored -> its score
    for score in scores:
        if score.metric.startswith(DISTANCES) and "class" not in (split := score.reference.split):
            what = "samples" if score.what == "images" else score.what
            splits.setdefault(split, {}).setdefault(score.protocol_key, {})[what] = score
    measured = {split: [one for one in found.values() if "samples" in one] for split, found in splits.items()}
    said = dict(compared(split, found) for split, found in measured.items() if found)
    return {kind: text for kind, text in said.items() if not kind.startswith("train/") or kind[6:] not in said}


def compared(split: str, found: Sequence[Found]) -> tuple[str, str]:
    """A kind and its sentences: how near the samples are to a split, by its distances, of which the first leads."""
    kinds, lead = [judged(each) for each in found], found[0]["samples"]
    pair = ("the training images", "held-out images") if split == "train" else ("held-out images", "other real images")
    (what, real), few = pair, lead.reference.n is not None and lead.reference.n < FEW
    claims = {
        "as real": f"as close to {what} as {real} are",
        "behind real": f"not as close to {what} as {real} are",
        "unclear": f"it is not shown whether they are as close to {what} as {real} are",
        "like noise": "no better than noise, so the training was far too short, or something failed",
        "beyond chance": f"not as close to {what} as chance allows; the distance of {real} was not measured",
        "no baseline": f"the distance of {real} was not measured, so this says little",
        "few": f"{lead.reference.n} images are too few for such a number, so judge by eye",
    }
    kind = "few" if few else kinds[0]
    name = f"{lead.metric}, the {called(lead.metric)} to {what}; lower is closer"
    text = f"{numbers(found[0], real)}: {claims[kind]} ({name})."
    if not few and "as real" in kinds and len({*kinds}) > 1:
        other, its = next(pair for pair in zip(found, kinds, strict=True) if pair[1] != kind)
        text += (
            f" By the {called(other['samples'].metric)}, {numbers(other, real)}: {claims[its].partition(' to ')[0]}."
        )
        kind = "mixed"
    return "train/" * (split == "train") + kind, text[0].upper() + text[1:]


def judged(found: Found) -> str:
    """How a distance of samples compares with that of real images, of noise, and of chance alone."""
    ends = {what: score.interval or (score.value, score.value) for what, score in found.items()}
    low, high = ends["samples"]
    if found["samples"].interval is None:
        return "unclear" if "real" in found else "no baseline"
    if any(high >= ends[what][0] for what in ("noise", "untrained") if what in ends):
        return "like noise"
    if "real" not in found:
        return "no baseline" if "floor" not in found else "beyond chance" if low > ends["floor"][1] else "unclear"
    return "as real" if high <= found["real"].value else "behind real" if low > ends["real"][1] else "unclear"


def numbers(found: Found, real: str) -> str:
    """`other real ones score 97.8, images of noise 278.7, these samples 78.9 ± 2.4`."""
    names = {"real": real, "noise": "images of noise", "untrained": "an untrained network's samples"}
    if "real" not in found:
        names["floor"] = "two halves of the same images"
    words = [(name, number(s.value, half_width(s))) for what, name in names.items() if (s := found.get(what))]
    words.append(("these samples", plus_minus(found["samples"].value, half_width(found["samples"]))))
    return ", ".join(f"{name} {'score ' * (not i)}{value}" for i, (name, value) in enumerate(words))


def copying(scores: Sequence[Score]) -> Findings:
    """What the audit for copies says."""
    score = next((score for score in reversed(scores) if score.metric == "copies"), None)
    if score is None or score.interval is None:
        return {}
    (low, high), flagged, repeats = score.interval, score.source.get("flagged", 0), score.source.get("repeats", 0)
    share = f"{score.n:,} samples ({low:.1%} to {high:.1%})"
    if repeats or low > score.source.get("chance", high):
        return {"copies": f"{max(flagged, repeats)} of {share} are very close to a training image: see the pairs."}
    if flagged:
        return {"few copies": f"{flagged} of {share} look like copies of training images, no more than by chance."}
    return {"no copies": f"No copies of training images among {share}."}


def training(metrics: Metrics) -> Findings:
    """Whether the validation error still fell, by the medians of the second and the last quarter of the steps.

    It has risen if the median of the last quarter is above the lowest one. The network memorizes if the gap is above 0,
    and above its lowest value by more than half of its interval.
    """
    if "val/mse" not in metrics:
        return {}
    (steps, values), findings = metrics["val/mse"], Findings()
    quarters = [values[(steps > i / 4 * steps[-1]) & (steps <= (i + 1) / 4 * steps[-1])] for i in range(4)]
    _, second, third, last = (float(np.median(each)) if len(each) else np.inf for each in quarters)
    error, best = "The error on held-out images", min(second, third)
    if last > (1 + CHANGE) * best:
        findings["rising"] = f"{error} has risen again, by {last / best - 1:.0%}: it was lowest before the end."
    elif last < (1 - CHANGE) * second < np.inf:
        change = f"by {1 - last / second:.0%} in its second half"
        findings["falling"] = f"{error} still fell when the training ended, {change}: twice the steps should help."
    elif np.isfinite(second):
        findings["flat"] = f"{error} hardly changed in the second half of the training."
    if "gap/half" in metrics:
        gap, half = metrics["gap/mse"].value, metrics["gap/half"].value[-1]
        if gap[-1] - max(0, gap.min()) > half:
            findings["memorizing"] = f"{error} has become higher than that on training images: the network memorizes."
    return findings


def limits(run: Run) -> list[str]:
    """What the numbers of the run do not show."""
    own = [score for score in run.scores if score.what in ("samples", "images")]
    first = next((score for score in own if score.metric.startswith(DISTANCES)), None)
    if first is None:
        return []
    n, photographs = first.reference.n or 0, run.info.get("photographs", {}).get(first.reference.split, 0)
    metric, few, audited = first.metric, 0 < photographs < n, any(score.metric == "copies" for score in own)
    said = {
        "Whether a single picture is beautiful: a distance compares whole sets of images. Look at the samples.": True,
        f"How near other photographs are: the {n:,} held-out images come from {photographs} of them.": few,
        "What another training would give: this is one seed. Compare recipes with three.": first.what == "samples",
        f"How it compares with papers: {metric} has other features than FID, and {first.n} samples.": metric != "fid",
        "Whether samples are copies of training images: this was not checked.": not audited,
    }
    return [text for text, applies in said.items() if applies]


def recipe_command(run: Run, *more: str) -> str:
    """The command that trains the run's recipe from the start, with more overrides, which replace its own."""
    keys = {word.partition("=")[0] for word in more}
    typed = [word for word in str(run.info.get("command", "")).split() if "=" in word and "ckpt=" not in word]
    words = run.overrides if run.record else typed  # a run that was not started by Hydra
    return command_line("train", [*(word for word in words if word.partition("=")[0] not in keys), *more])


def next_step(run: Run, state: str, findings: Findings) -> tuple[str, str]:
    """The most useful next step after these findings, in words, and its command."""
    place, config, trainer = place_of(run), run.config, run.settings.get("trainer", {})
    model = override("ckpt", place if run.command == "train" else config.get("ckpt"))
    if config.get("images"):
        model = override("images", config["images"])
    sample, evaluate = f"{command_line('sample', [])} {model} n=64", f"{command_line('evaluate', [])} {model}"
    audit, early = f"{evaluate} 'audit=[pixels]'", recipe_command(run, "guidance=early")
    best, going = place / "checkpoints/best.ckpt", resumable(run)
    drawn_best = f"{command_line('sample', [])} {override('ckpt', best)} n=64"
    unit = "max_steps" if trainer.get("max_steps", -1) > 0 else "max_epochs"
    longer = f"{resume_command(place)} trainer.{unit}={2 * trainer.get(unit, 0)}"
    shorter = recipe_command(run, f"trainer.max_steps={run.info.get('total_steps', 2) // 2}")
    guided, has = run.settings.get("guidance"), lambda *kinds: any(kind in findings for kind in kinds)
    worse, audited = has("rising", "memorizing"), has("no copies", "few copies", "copies") and not config.get("images")
    other = "guidance=none" if guided else "threshold@sampler.threshold=dynamic"
    steps = [
        (state == "running", "Watch the training in your browser.", command_line("watch", [str(place)])),
        (state != "complete", "Go on with the training.", resume_command(place)),
        (has("saturated"), "Draw in another way, and compare the pictures.", f"{sample} {other}"),
        (has("no scores"), "Score its samples, and look for copies.", audit),
        (has("no baseline", "beyond chance"), "Measure how real images and noise score.", evaluate),
        (run.command != "train" and not audited, "Look for copies of training images.", audit),
        (run.command != "train", "Draw more samples.", sample),
        (has("copies"), "Look at the pairs. If they are copies, train with more images, or for fewer steps.", shorter),
        (worse and going and best.is_file(), "Draw with the weights of the lowest error.", drawn_best),
        (worse, "Train with more images, or for fewer steps.", shorter),
        (has("falling", "like noise") and going, "Train for as many steps again.", longer),
        (has("falling", "like noise"), "Train on from these weights.", recipe_command(run, f"init={shown(place)}")),
        (not guided, "Train with guidance by its own early weights, which often helps.", early),
        (True, "Train with other seeds, to see how much is chance.", recipe_command(run, "-m", "seed=0,1,2")),
    ]
    return next((words, command) for fits, words, command in steps if fits)


def place_of(run: Run) -> Path:
    """The shortest path of a run's folder."""
    return Path(min(os.path.relpath(run.folder), str(run.folder.resolve()), key=len))


def resumable(run: Run) -> bool:
    """Whether training can go on from a checkpoint, also after the end of the run has removed what it does not keep."""
    weights = run.settings.get("checkpoint", {}).get("finished") == "weights"
    return not weights and any(run.folder.glob("checkpoints/*.ckpt"))
