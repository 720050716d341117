"""The verdict on a run: what the referee, the audit and the errors show, and where they show little or nothing."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion.findings.verdict import HEADLINES, closeness, copying, like_noise, next_step, training, verdict
from diffusion.metric.record import Reference, Score
from diffusion.runs.again import recipe
from diffusion.runs.folder import Curve, Run
from diffusion.runs.record import RunRecord

Make = Callable[..., Path]
REAL, NOISE = (97.8, 92.2, 103.3), (279.0, 277.0, 280.3)  # of fd_lite0, 250 tiles
Ends = tuple[float, float | None, float | None]


def scores(metric: str = "fd_lite0", features: str = "lite0", **found: Ends) -> list[Score]:
    """Scores against 250 images: what=(value, low, high)."""
    about = {"reference": Reference("val", 250), "features": features}
    return [Score(metric, v, 250, what, low=low, high=high, **about) for what, (v, low, high) in found.items()]


def answer(verdict: str, *by: str, **more: Any) -> dict[str, Any]:
    return {"verdict": verdict, "by": by, "eyes": dict.fromkeys(("lite0", "colours", "patches"))} | more


def referee(further: dict[str, Any], others: dict[str, Any] | None = None, held: int = 6) -> dict[str, Any]:
    numbers = {"n": 250, "train": 500, "photographs": [25, held], "tiles": others is not None, "small": 100}
    return numbers | {"further": further} | ({"others": others} if others else {})


SCORES = scores(samples=(78.9, 76.5, 81.2), real=REAL, noise=NOISE)
MORE = {"20": ["patches"], "100": ["lite0", "colours", "patches"]}


@pytest.mark.parametrize(("found", "said", "kinds", "words"), [
    # the demo's distance is below that of real images, and only the referee judges
    (SCORES, {}, ["not judged"], "it can be low for bad images"),
    (SCORES, referee(answer("apart", "colours", "patches")), ["apart"], "real images: colours and patches tell them"),
    (SCORES, referee(answer("alike")), ["alike"], "none of 3 eyes tells them apart: nearer than two sets of 100"),
    (SCORES, referee(answer("unclear")), ["unclear"], "but they may be farther than two sets of 100"),
    (SCORES, referee(answer("apart", "lite0"), answer("alike", **{"with": MORE})), ["further apart", "others few"],
     "only 6 are held out, which show only gross faults. With 20, as simulated, patches tells"),
    (SCORES, referee(answer("alike"), answer("alike", **{"with": {}}), 200), ["further alike", "others alike"],
     "Against other photographs: none of the eyes tells them apart."),
    (SCORES, referee(answer("apart", "lite0"), answer("apart", "lite0", **{"with": MORE})),
     ["further apart", "others apart"], "Against other photographs: lite0 tells them apart."),
    (SCORES, {"n": 100, "train": 90}, ["few samples"], "200 samples are needed"),
    (SCORES, {"n": 250, "train": 90}, ["few"], "200 training images are needed"),
    # points: by the energy distance, not by one that sees only mean and covariance
    (scores(metric="energy_points", samples=(0.02, 0.019, 0.021), real=(0.001, 0.0, 0.002), features="points")
     + scores(metric="fd_points", samples=(0.001, 0.0, 0.002), real=(0.003, 0.002, 0.004), features="points"),
     {}, ["behind real"], "is 0.0200 ± 0.0010, that of other draws 0.0010."),
    # experiment=colourise
    ([replace(score, source={"given": "val"}) for score in SCORES], referee(answer("alike")), ["same images"],
     "from the conditions of these"),
    # made: almost noise
    (scores(samples=(276.0, 272.0, 280.0), real=REAL, noise=NOISE), referee(answer("apart")), ["like noise"],
     "that of noise 279"),
    (scores(samples=(284.5, 274.0, 294.9), real=REAL, noise=(297.4, 291.3, 303.5)), {}, ["not judged"], "284"),
])  # fmt: skip
def test_only_the_referee_says_whether_samples_can_be_told_apart_from_real_images(
    found: list[Score], said: dict[str, Any], kinds: list[str], words: str
) -> None:
    findings = closeness(found, said)
    assert [*findings] == kinds
    assert words in " ".join(findings.values())


def test_the_eyes_that_have_looked_are_named(make_run: Make, tmp_path: Path) -> None:
    run = Run(make_run(tmp_path / "demo"))
    vars(run).update({"scores": SCORES, "referee": referee(answer("alike"))})
    assert "several eyes: lite0, colours, patches." in verdict(run, "complete").about


def test_copies_are_not_praised_for_being_near(make_run: Make, tmp_path: Path) -> None:
    run = Run(make_run(tmp_path / "demo"))
    found = [Score("copies", 0.9, 250, low=0.85, high=0.93, source={"flagged": 225, "repeats": 225, "chance": 0.02})]
    vars(run).update({"scores": [*SCORES, *found], "referee": referee(answer("alike"))})
    assert verdict(run, "complete").headline == HEADLINES["copies"]
    vars(run).update({"scores": SCORES})
    unknown = verdict(run, "complete")
    assert HEADLINES["may be copies"] in unknown.headline
    assert unknown.step.commands[0][-1] == "audit=[pixels]"


@pytest.mark.parametrize(("further", "said"), [
    ("alike", "Copies were not looked for; they would be near to real images, too."),
    ("apart", "Copies were not looked for."),
])  # fmt: skip
def test_it_is_said_that_copies_were_not_looked_for(make_run: Make, tmp_path: Path, further: str, said: str) -> None:
    run = Run(make_run(tmp_path / "demo"))
    vars(run).update({"scores": SCORES, "referee": referee(answer(further, "lite0"))})
    assert said in verdict(run, "complete").findings.values()
    vars(run)["scores"] = [*SCORES, Score("copies", 0.0, 250, low=0.0, high=0.015)]
    assert "not looked for" not in str(verdict(run, "complete"))


@pytest.mark.parametrize(("flagged", "headline", "words"), [
    (250, "All are copies of real images.", "All 250 samples (98.5% to 100.0%) look like a changed training image;"),
    (249, HEADLINES["copies"], "249 of 250 samples (97.8% to 100.0%) look like a changed training image;"),
])  # fmt: skip
def test_all_are_copies_only_where_all_are(
    make_run: Make, tmp_path: Path, flagged: int, headline: str, words: str
) -> None:
    import scipy

    low, high = scipy.stats.binomtest(flagged, 250).proportion_ci(0.95, method="exact")
    run = Run(make_run(tmp_path / "demo"))
    audit = Score("copies", flagged / 250, 250, low=low, high=high, source={"flagged": flagged, "chance": 0.02})
    vars(run).update({"scores": [*SCORES, audit], "referee": referee(answer("alike"))})
    found = verdict(run, "complete")
    assert found.headline == headline
    assert found.findings["copies"].startswith(words)


SIGNALS = {"kind": {"_target_": "diffusion.kinds.signals.Signals", "rate": 0}}
FIGURES = {"mean": [0.0], "std": [1.0], "names": ["1"], "units": [""]}


@pytest.mark.parametrize(("data", "facts", "audit"), [
    ({"channels": 3, "resolution": 8}, None, True),
    ({"channels": 3, "resolution": 8}, {"in_channels": 3}, True),
    ({"channels": 2, "resolution": 1}, None, False),  # points
    ({"channels": 1, "resolution": 8}, {"kind": "measured", "figures": FIGURES}, False),
    ({"channels": 1, "resolution": 8}, {"measured": FIGURES}, False),  # as version 1.0 wrote it
    (SIGNALS, {"kind": "signals", "figures": FIGURES}, False),
    ({"kind": {"_target_": "os.abort"}}, {}, False),  # a stranger's
])  # fmt: skip
@pytest.mark.parametrize("evaluation", [False, True])
def test_an_audit_is_proposed_where_the_kind_of_the_data_allows_one(
    make_run: Make, tmp_path: Path, data: dict[str, Any], facts: dict[str, Any] | None, audit: bool, evaluation: bool
) -> None:
    run = Run(make_run(tmp_path / "demo"))
    known = {"config": {"recipe": {"data": data}, "ckpt": "demo", "facts": facts}, "info": {}}
    known = known if evaluation else {"config": {"data": data}, "info": {"facts": facts}}
    vars(run).update({"scores": SCORES, "referee": referee(answer("alike"))} | known)
    step = verdict(run, "complete").step
    assert ("audit=[pixels]" in [word for command in step.commands for word in command]) == audit
    assert ("Look for copies" in step.words) == audit
    vars(run)["referee"] = {}  # then its samples are not judged
    step = verdict(run, "complete").step
    assert ("look for copies" in step.words, "audit=[pixels]" in step.commands[0]) == (audit, audit)


@pytest.mark.parametrize(("flagged", "n", "held_out", "kind"), [
    (0, 250, 0, "no copies"), (2, 750, 0, "few copies"), (9, 512, 0, "few copies"), (40, 512, 3, "copies"),
    (10, 250, 0, "unclear copies"),
])  # fmt: skip
def test_copies_are_suspected_only_beyond_chance(flagged: int, n: int, held_out: int, kind: str) -> None:
    import scipy

    low, high = scipy.stats.binomtest(flagged, n).proportion_ci(0.95, method="exact")
    source = {"flagged": flagged, "held_out": held_out, "found": 0.91, "chance": 0.022}
    (said,) = copying([Score("copies", flagged / n, n, low=low, high=high, source=source)]).items()
    assert said[0] == kind
    assert f"{n} samples" in said[1]
    assert ("of changed copies, 91% would be found" in said[1]) == (flagged == 0)
    assert ("by chance, up to 2.2% do." in said[1]) == (flagged > 0)
    assert ("(3 of them like a held-out one)" in said[1]) == (held_out > 0)


@pytest.mark.parametrize(("val", "gap", "kinds"), [
    ([0.0480, 0.0469, 0.0431, 0.0428, 0.0414, 0.0411, 0.0409, 0.0407], [-0.004] * 8, {"falling"}),
    ([0.0469, 0.0428, 0.0411, 0.0407], [-0.004, -0.003, -0.003, -0.003], {"fell"}),  # by one validation in a quarter
    ([0.0469, 0.0428, 0.0427, 0.0425], [-0.004, -0.003, -0.003, -0.003], {"flat"}),
    ([0.0469, 0.0400, 0.0430, 0.0450], [0.0, 0.01, 0.01, 0.01], {"rising"}),
    ([0.0469, 0.0400, 0.0430, 0.0450], [0.0, 0.01, 0.02, 0.06], {"memorizing"}),
    ([0.9921, 0.9838, 0.9780, 0.9759], [0.0] * 4, set()),  # three steps have taught it nothing
    ([0.0469], [0.06], set()),  # one validation shows no change
])  # fmt: skip
def test_the_end_of_the_validation_error_is_judged_by_quarters(
    val: Sequence[float], gap: Sequence[float], kinds: set[str]
) -> None:
    steps = np.linspace(0, 2000, len(val) + 1)[1:]
    metrics = {"val/mse": val, "gap/mse": gap, "gap/half": [0.02] * len(gap)}
    assert {*training({name: Curve(steps, np.array(values)) for name, values in metrics.items()})} == kinds


@pytest.mark.parametrize(("state", "info", "command"), [
    ("interrupted", {}, "ckpt=auto"), ("complete", {}, "trainer.max_steps=300"),
])  # fmt: skip
def test_the_next_step_fits_the_findings(
    make_run: Make, tmp_path: Path, state: str, info: dict[str, Any], command: str
) -> None:
    record = {"state": "complete", "command": ["diffusion", "train"], "steps": 400, "total_steps": 400}
    run = Run(make_run(tmp_path / "demo", info=record | info))
    assert command in verdict(run, state).step.commands[0]


@pytest.mark.parametrize(("sampler", "words"), [("FlowMap", "seed=0,1,2"), ("DDIM", "guidance=early")])
def test_guidance_is_proposed_only_where_it_can_be_used(
    make_run: Make, tmp_path: Path, sampler: str, words: str
) -> None:
    run = Run(make_run(tmp_path / "demo", info={"command": ["diffusion", "train"]}))
    vars(run)["settings"] = {"sampler": {"_target_": f"diffusion.process.sampler.{sampler}"}}
    assert words in next_step(run, "complete", {"flat": ""}).commands[0]


def test_images_of_an_unknown_source_have_no_next_step(make_output: Make, tmp_path: Path) -> None:
    folder = make_output(tmp_path / "scored", "evaluate", scores=[])
    (folder / "config.yaml").write_text("images: samples.npz\nckpt: null\n")
    blur = {"fault": "blur", "value": 1, "low": 2, "high": 8, "real": 4}
    (folder / "referee.json").write_text(json.dumps({"faults": [blur]}))
    found = verdict(Run(folder), "complete")
    assert (found.headline, found.step.words) == ("They are blurred. Not scored.", "")
    assert [*found.findings] == ["blur", "no scores"]


@pytest.mark.parametrize(("found", "step"), [
    (SCORES, "Score 512 samples, and look for copies."),
    ([*SCORES, Score("copies", 0.0, 250, low=0.0, high=0.015)], "Score 512 samples."),
    (scores(samples=(284.5, 274.0, 294.9), real=REAL, noise=NOISE), "too short: train for as many steps again."),
])  # fmt: skip
def test_the_next_step_asks_for_nothing_that_is_there(
    make_run: Make, tmp_path: Path, found: list[Score], step: str
) -> None:
    run = Run(make_run(tmp_path / "demo"))
    faults = [{"fault": "rough", "value": 8, "low": 1, "high": 2, "real": 1}] if like_noise(found) else []
    vars(run).update({"scores": found, "referee": {"faults": faults} if faults else {}, "metrics": {}})
    assert verdict(run, "complete").step.words.endswith(step)


@pytest.mark.parametrize(("errors", "step"), [
    ([0.06], "as many steps again"), ([0.08, 0.07, 0.06, 0.05], "as many steps again"), ([0.05] * 4, "other seeds"),
])  # fmt: skip
def test_other_seeds_are_for_a_run_whose_error_no_longer_falls(
    make_run: Make, tmp_path: Path, errors: Sequence[float], step: str
) -> None:
    folder = make_run(tmp_path / "demo")
    with (folder / "config.yaml").open("a") as file:
        file.write("guidance: {scale: 2}\n")
    lines = [f"{100 * i + 399},{error}" for i, error in enumerate(errors, 1 - len(errors))]
    (folder / "metrics.csv").write_text("\n".join(["step,val/mse", *lines]))
    assert step in verdict(Run(folder), "complete").step.words


@pytest.mark.parametrize(("errors", "kinds"), [([376, 381], {"rose"}), ([376, 374], {"flat"}), ([376, 300], set())])
def test_the_last_validations_are_compared_where_there_are_no_others(errors: list[int], kinds: set[str]) -> None:
    assert {*training({"val/mse": Curve(np.array([84, 100]), np.array(errors) / 10_000)})} == kinds


def test_the_recipe_of_a_fine_tuned_run_names_its_model_and_its_photographs(make_run: Make, tmp_path: Path) -> None:
    typed = ["diffusion", "finetune", "demo", "MY PHOTOS", "hydra.run.dir=X", "ema.decay=0.9"]
    folder = make_run(tmp_path / "tuned", info={"command": typed})
    config = (folder / "config.yaml").read_text("utf-8").replace("  size: 32", "  root: MY PHOTOS")
    (folder / "config.yaml").write_text(config.replace("name: demo", "name: finetune\ninit: demo"), "utf-8")
    photographs = ["MY PHOTOS", "ema.decay=0.9"]
    assert recipe(Run(folder), "seed=1") == ["finetune", "demo", *photographs, "seed=1"]
    assert recipe(Run(folder), init=Path("RUN")) == ["finetune", "RUN", *photographs]
    for words in (["trainer.max_steps=700", "seed=1"], ["trainer.max_steps=800"]):  # it is resumed twice
        RunRecord(folder).start(["train", "hydra.run.dir=X", "ckpt=auto", *words])
    assert recipe(Run(make_run(tmp_path / "bare", info={"command": ["diffusion"]}))) == ["train"]
    assert recipe(Run(folder)) == ["finetune", "demo", *photographs, "seed=1", "trainer.max_steps=800"]
