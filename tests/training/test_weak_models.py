"""Autoguidance within a run: the weights of an early step are kept and guide its last samples."""

from pathlib import Path

import numpy as np
import pytest
import torch
from composing import train
from PIL import Image
from safetensors.torch import load_file

import diffusion
from diffusion.base.pixels import grid, to_rgb
from diffusion.checkpoint.storage import early_file
from diffusion.config.inherit import changes_of
from diffusion.library.opening import completed, settings_of
from diffusion.runs.folder import read_scores

GUIDED = ["guidance=auto", "guidance.step=3", "guidance.scale=3", "trainer.max_steps=7", "samples.n=4"]


@pytest.fixture(scope="module")
def words(tiny) -> list[str]:
    return [*tiny, "score.n=8", "score.baselines=[]", "features=lite0", "checkpoint.keep=9", *GUIDED]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("weak") / "run"
    train([*words, "checkpoint.every_n_steps=1"], folder)
    return folder


def test_the_averaged_weights_of_the_guidance_step_are_kept(run):
    kept = load_file(early_file(run / "checkpoints", 3))
    saved = diffusion.load(run / "checkpoints/step-00000003.ckpt", device="cpu").denoiser.network.state_dict()
    assert kept.keys() == saved.keys()
    assert all(torch.equal(kept[name], saved[name]) for name in kept)


def test_the_early_weights_guide_the_final_samples_and_later_commands(run, ran, tmp_path):
    whole = diffusion.load(run, device="cpu")
    early = f"auto guidance.ckpt={run}/checkpoints/step-00000003.ckpt guidance.scale=3"
    expected = whole.sample(8, guidance=early, progress=False)
    assert not torch.equal(expected, whole.sample(8, guidance="none", progress=False))
    assert torch.equal(whole.sample(8, progress=False), expected)
    shown, drawn = Image.open(run / "samples/all.png"), grid(to_rgb(expected))
    assert shown.convert("RGB").tobytes() == drawn.convert("RGB").tobytes()
    assert {score.source["guidance"]["step"] for score in read_scores(run) if score.what == "samples"} == {3}
    of_sixth = run / "checkpoints/step-00000006.ckpt"  # 40% of 6 steps are 2, and of the run's 7 are 3
    with_early = diffusion.load(of_sixth, device="cpu").sample(8, guidance=early, progress=False)
    cases = {"own": (run, [], expected), "early": (of_sixth, ["guidance=early", "guidance.scale=3"], with_early)}
    for name, (model, chosen, images) in cases.items():
        words = [f"ckpt={model}", "n=8", "device=cpu", f"hydra.run.dir={name}", *chosen]
        ran("sample", words)
        drawn = torch.from_numpy(np.load(tmp_path / name / "images.npz")["arr_0"])
        assert torch.equal(drawn.permute(0, 3, 1, 2), images)


def test_fillings_are_drawn_without_the_early_weights_unless_they_are_asked_for(run):
    model = diffusion.load(run, device="cpu")
    words = [f"ckpt={run}", "image=x", "mask=y"]
    for more, guided in (([], False), (["guidance=early"], True), (["guidance.scale=2"], True)):
        asked = [*words, *more]
        assert bool(completed(settings_of("edit", asked), model.restored, changes_of(asked)).guidance) is guided
    assert completed(settings_of("edit", words[:2]), model.restored, []).guidance


def test_a_run_that_ends_before_the_guidance_step_samples_without_guidance(words, tmp_path, capsys):
    stop = "callbacks.stop={_target_: lightning.pytorch.callbacks.Timer, duration: {seconds: 0}, interval: step}"
    train([*words, f"+{stop}"], tmp_path / "short")
    assert (
        "guidance.step=3: the run ended before this step; its samples are drawn without guidance"
        in capsys.readouterr().out
    )
    assert not any("guidance" in score.source for score in read_scores(tmp_path / "short"))
