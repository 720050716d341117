"""A study of guidance: scales and intervals use the same noise and the reference's classes; evaluations are counted."""

import csv
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from composing import train
from PIL import Image
from torch import Tensor

from diffusion.checkpoint import find
from diffusion.checkpoint.restore import Restored, restore
from diffusion.config.build import make
from diffusion.config.composition import choice
from diffusion.evaluation.classes import proportional
from diffusion.model.unet import UNet
from diffusion.runs.folder import read_scores


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short runs: one with two classes, the second with twice as many images, and one without labels."""
    root = tmp_path_factory.mktemp("runs")
    for name, n in {"blue": 10, "red": 20}.items():
        (root / "shelves" / name).mkdir(parents=True)
        for i in range(n):
            picture = Image.new("RGB", (8, 8), (20 + 7 * i, 40, 220) if name == "blue" else (220, 40, 20 + 7 * i))
            picture.paste((255, 250 - i, 240), (0, i % 8, 8, i % 8 + 1 + i // 8))
            picture.save(root / "shelves" / name / f"{i}.png")
    short = ["ema=none", "samples.n=0", "trainer.max_steps=5", "optimizer.lr=1e-2"]
    labelled = [f"data.root={root}/shelves", "data.labels=folders", "data.val=6", "data.test=6"]
    train([*tiny, *labelled, *short], root / "labelled")
    train([*tiny, *short], root / "plain")
    return {name: root / name for name in ("labelled", "plain")}


WORDS = ["guidance", "n=6", "features=lite0", "device=cpu", "hydra.run.dir=out", "metrics.kernel=null"]


def studied(command, *words: str) -> str:
    status, out, err = command("study", [*WORDS, *words])
    assert status == 0, out + err
    return str(out)


def test_every_scale_in_every_interval_is_scored_and_counted(runs, command, tmp_path, monkeypatch):
    """Scale 1 is drawn once for each sampler, without the weak estimate; samples have the reference's proportions."""
    seen: list[tuple[Tensor, list[int]]] = []
    plain = UNet.forward

    def noted(self: UNet, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        seen.append((x, [] if classes is None else classes.tolist()))
        return plain(self, x, label, classes)

    monkeypatch.setattr(UNet, "forward", noted)
    words = ["guidance=cfg", "scales=[3,1,0.5,3]", "intervals=[[null,null],[0.5,5]]", "samplers=[ddim,run]", "steps=4"]
    out = studied(command, f"ckpt={runs['labelled']}", *words)
    rows = list(csv.DictReader((tmp_path / "out/guidance.csv").open()))
    of_ddim = [
        ("", "", "1.0", "4"), ("", "", "0.5", "8"), ("", "", "3.0", "8"), ("0.5", "5.0", "0.5", "6"),
        ("0.5", "5.0", "3.0", "6"),
    ]  # fmt: skip
    assert [(row["low"], row["high"], row["scale"], row["nfe"]) for row in rows[:-1]] == of_ddim * 2
    assert Counter(row["sampler"] for row in rows) == {"ddim": 5, "run (DDIM)": 5, "floor": 1}
    scores = [s for s in read_scores(tmp_path / "out") if (s.metric, s.what) == ("fd_lite0", "samples")]
    assert [(s.source["nfe"], s.source["guidance"]["scale"]) for s in scores[:3]] == [(4, 1), (8, 0.5), (8, 3)]
    assert {s.source["guidance"]["name"] for s in scores} == {"ClassifierFree"}
    assert [s.source["guidance"]["low"] for s in scores[:5]] == [None, None, None, 0.5, 0.5]
    assert len({s.value for s in scores}) == 5  # from both samplers, which are the same here
    assert re.search(r"10 settings × 6 samples, 64 network evaluations per image: about .* on cpu", out)
    assert out.index("network evaluations per image") < out.index("1/10 ddim, scale 1, 4 NFE")
    assert "3/10 ddim, scale 3, 8 NFE" in out
    assert "5/10 ddim, scale 3 in (0.5, 5], 6 NFE" in out
    drawn = [(x, classes) for x, classes in seen[2:] if len(x) == 6]  # after the time measurement
    starts = [(x, classes) for x, classes in drawn if x.equal(drawn[0][0])]
    assert [classes for _, classes in starts if classes] == [starts[0][1]] * 10  # the same noise and classes
    restored = restore(runs["labelled"] / "checkpoints/last.ckpt")
    data = make(restored.config["data"], "data")
    data.setup()
    assert starts[0][1] == proportional(data.class_counts("val"), 6).tolist()
    assert starts[0][1] != proportional([*restored.labels.values()], 6).tolist()
    assert {path.name for path in (tmp_path / "out").glob("guidance.*")} == {
        "guidance.md", "guidance.csv", "guidance.png",
    }  # fmt: skip


def test_a_model_without_labels_can_be_studied_with_autoguidance(runs, command, tmp_path):
    words = [f"ckpt={runs['plain']}", f"guidance.ckpt={runs['plain']}", "scales=[2]", "baselines=[]"]
    studied(command, *words, "guidance=auto")
    rows = list(csv.DictReader((tmp_path / "out/guidance.csv").open()))
    assert [(row["sampler"], row["scale"], row["nfe"]) for row in rows] == [
        ("run (DDIM)", "1.0", "4"), ("run (DDIM)", "2.0", "8"),
    ]  # fmt: skip


def test_the_guidance_of_the_run_and_its_interval_are_the_default(runs, command, tmp_path, monkeypatch):
    def restored(path: Path, weights: str) -> Restored:
        found = restore(path, weights)
        return replace(found, config={**found.config, "guidance": choice("guidance", "interval")})

    monkeypatch.setattr(find, "restore", restored)
    studied(command, f"ckpt={runs['labelled']}", "scales=[2]", "baselines=[]")
    rows = list(csv.DictReader((tmp_path / "out/guidance.csv").open()))
    assert [(row["low"], row["high"], row["scale"]) for row in rows] == [("", "", "1.0"), ("0.19", "1.61", "2.0")]


def test_an_interval_without_a_step_is_skipped(runs, command, tmp_path):
    words = [f"ckpt={runs['labelled']}", "guidance=cfg", "scales=[2]", "baselines=[]", "steps=2"]
    out = studied(command, *words, "intervals=[[null,null],[0.5,0.51]]")
    assert "run (DDIM), scale 2 in (0.5, 0.51]: no step of the sampler is in the interval; skipped\n" in out
    assert "2 settings × 6 samples, 6 network evaluations" in out


REFUSED = {
    "no guidance": (
        "labelled",
        ["guidance=none"],
        "guidance: nothing to study; choose one of auto, cfg, early, interv",
    ),
    "a run without one": ("labelled", [], "guidance: nothing to study"),
    "no labels": ("plain", ["guidance=cfg"], "the model was trained without labels"),
    "no worse model": ("plain", ["guidance=auto"], "set guidance.step to an earlier step"),
    "no scale": ("labelled", ["guidance=cfg", "scales=[]"], "scales=[]: expected a list of at least 1, each a number"),
    "a negative scale": ("labelled", ["guidance=cfg", "scales=[-1]"], "each a number of at least 0; scales=[1,1.25,"),
    "an infinite scale": ("labelled", ["guidance=cfg", "scales=[.inf]"], "each a number of at least 0"),
    "only scale 1": ("labelled", ["guidance=cfg", "scales=[1]"], "only scale 1 "),
    "one number": ("labelled", ["guidance=cfg", "intervals=[[1]]"], "each a pair [low,high] of noise levels"),
    "low above high": ("labelled", ["guidance=cfg", "intervals=[[3,1]]"], "low must be below high"),
    "an interval outside": ("labelled", ["guidance=cfg", "intervals=[[1e9,null]]"], "ranges from"),
    "no step inside": (
        "labelled",
        ["guidance=cfg", "intervals=[[0.5,0.51]]", "steps=2"],
        "only scale 1 ",
    ),
    "steps twice": ("labelled", ["guidance=cfg", "samplers=['ddim sampler.steps=3']", "steps=4"], "set twice"),
    "no such sampler": ("labelled", ["guidance=cfg", "samplers=[dim]"], "sampler=dim: unknown choice"),
    "an adaptive sampler": ("labelled", ["guidance=cfg", "samplers=[probability_flow]"], "chooses its own number"),
    "a budget": ("labelled", ["guidance=cfg", "nfe=[10]"], "nfe: unknown setting"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_guidance_studies_are_refused_before_any_work(runs, command, name):
    run, words, said = REFUSED[name]
    status, out, err = command("study", [*WORDS, f"ckpt={runs[run]}", *words])
    assert status == 2, out
    (line,) = err.splitlines()
    assert said in line
    assert "network evaluations per image" not in out


def test_help_describes_the_named_study(command):
    status, out, _ = command("study", ["guidance", "--help"])
    assert status == 0
    assert "Compare scales of a guidance" in out
    assert "\n  scales=[1,1.25,1.5,2,3]" in out
    assert "nfe=" not in out
    assert "  nfe=[10,20,50]" in command("study", ["--help"])[1]


def test_settings_are_measured_again_with_another_worse_model(runs, command, tiny, tmp_path) -> None:
    words = [f"ckpt={runs['plain']}", "guidance=auto", "guidance.ckpt=worse", "scales=[2]", "steps=2", "baselines=[]"]
    for seed, measured in ((1, False), (1, True), (2, False)):
        train([*tiny, "ema=none", "samples.n=0", "trainer.max_steps=1", f"seed={seed}"], tmp_path / "worse")
        out = studied(command, *words)
        assert ("measured before, and not drawn again: 2 of 2 settings" in out) == measured, out
