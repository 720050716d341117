"""The faults of samples on a run's page: sentences, headline, pictures, and only the treatments that are known."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusion.base.pixels import GAP, framed
from diffusion.data import Landscapes
from diffusion.findings.faults import headline, sentence
from diffusion.findings.verdict import verdict
from diffusion.metric.features import Lite0
from diffusion.report.figures import draw_judged
from diffusion.report.run import faults
from diffusion.runs.folder import Run
from diffusion.scoring.pipeline import Scorer

Make = Callable[..., Path]


def fault(name: str, **changed: Any) -> dict[str, Any]:
    return {"fault": name, "value": 0.8, "low": 1.0, "high": 4.0, "real": 2.0, "worst": [0], "place": [None]} | changed


def test_a_fault_is_a_sentence_with_its_number_relative_to_real_images() -> None:
    blur = "Blurred: fine detail, relative to coarser detail, is 0.4 times that of real images (0.5 to 2 in others)."
    assert sentence(fault("blur")) == blur
    assert sentence(fault("grid 4")).startswith("Marked by a grid of 4×4 pixels: ")
    share = fault("saturated", value=0.3, real=0.0, low=-0.1, high=0.1)
    assert sentence(share).endswith("one colour: 30% are such pictures; of other real images, up to 10%.")
    assert headline([fault("blur"), fault("dark"), fault("noise")]) == "They are blurred, too dark and noisy."


def test_the_grid_of_patches_is_called_so(make_run: Make, tmp_path: Path) -> None:
    run = Run(make_run(tmp_path / "demo"))
    run.referee["faults"] = [fault("grid 8"), fault("grid 4")]
    run.settings["model"] = {"patch": 8}
    found = verdict(run, "complete").findings
    assert ("patches" in found["grid 8"], "patches" in found["grid 4"]) == (True, False)


@pytest.mark.parametrize(("names", "errors", "more", "step", "known"), [
    (["saturated"], [0.5] * 4, "guidance: {scale: 2}", "n=64 threshold@sampler.threshold=dynamic", True),
    (["colour noise", "rough"], [0.5] * 4, "", "optimizer.lr=3e-05", True),
    (["rough", "noise"], [0.8, 0.7, 0.6, 0.5], "", "trainer.max_steps=800", True),  # it was too short
    (["purple", "noise"], [0.8, 0.7, 0.6, 0.5], "", "trainer.max_steps=800", True),  # of the first that can be mended
    (["noise"], [0.6, 0.5, 0.4, 0.6], "", "trainer.max_steps=300", False),  # for fewer steps, as without faults
    (["saturated"], [0.8, 0.7, 0.6, 0.5], "", "trainer.max_steps=800", False),
])  # fmt: skip
def test_the_next_step_mends_the_clearest_fault_that_can_be_mended(
    make_run: Make, tmp_path: Path, names: Sequence[str], errors: Sequence[float], more: str, step: str, known: bool
) -> None:
    record = {"state": "complete", "command": ["diffusion", "train"], "steps": 400, "total_steps": 400}
    run = Run(make_run(tmp_path / "demo", info=record))
    with (run.folder / "config.yaml").open("a") as file:
        file.write(more)
    referee = run.referee | {"faults": [fault(name, value=0.3) for name in names]}
    (run.folder / "referee.json").write_text(json.dumps(referee))
    run = Run(run.folder)
    lines = [f"{100 * i + 99},{error}" for i, error in enumerate(errors)]
    (run.folder / "metrics.csv").write_text("\n".join(["step,val/mse", *lines, ""]))
    found = verdict(run, "complete")
    assert step in found.step.line
    assert ("untreated" not in found.findings) == known
    assert found.headline.startswith(headline([fault(name) for name in names]))


def test_the_place_is_framed() -> None:
    picture = np.asarray(framed(torch.zeros(5, 3, 16, 16, dtype=torch.uint8), 3, [None] * 4 + [[4, 8, 4, 4]]))
    scale = (picture.shape[1] + GAP) // 3 // 16
    rows, columns = (picture == (255, 0, 0)).all(axis=2).nonzero()
    top, left = (16 * scale + GAP) * np.array([1, 1]) + scale * np.array([4, 8])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (
        top, top + 4 * scale - 1, left, left + 4 * scale - 1,
    )  # fmt: skip


def test_the_page_shows_the_worst_pictures_and_their_spectrum(make_run: Make, tmp_path: Path) -> None:
    data, folder = Landscapes(8), make_run(tmp_path / "demo")
    data.setup()
    scorer = Scorer(data, "val", extractor=Lite0(), metrics=[], folder=folder, run=folder)
    draw_judged(scorer.judge(data.splits["test"].images[:24] // 4), folder)
    blocks = faults(Run(folder))
    files = ["figures/faults.png", "figures/spectrum.png"]
    assert [file in str(blocks) and (folder / file).is_file() for file in files] == [True, True]
    assert sum(map(len, map(str, blocks))) < 200_000
    assert "too dark" in str(blocks)
    (folder / "referee.json").write_text('{"faults": []}')  # of a later evaluation
    assert faults(Run(folder)) == []
