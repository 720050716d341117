"""A run starts where it was asked to, its commands can be repeated, and a mistake leaves nothing behind."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from diffusion.errors import UserError
from diffusion.report.run import write_report
from diffusion.runs.launch import Launch
from diffusion.runs.record import RunRecord


@pytest.mark.whole_report
@pytest.mark.usefixtures("undrawn")
def test_the_commands_of_a_page_work_with_any_folder(ran: Any, tiny: list[str], photos: Path, tmp_path: Path) -> None:
    place, words = tmp_path / "mes photos d'été", [word for word in tiny if not word.startswith("data.root=")]
    shutil.copytree(photos, place)
    run = ["trainer.max_steps=2", "samples.n=0", 'hydra.run.dir="the run"']
    ran("train", [*words, *run, f'data.root="{place}"'])
    folder = tmp_path / "the run"
    page = write_report(folder)[0].read_text("utf-8")
    lines = re.findall(r"^diffusion (?:train|sample) [^#\n]*", page, re.MULTILINE)
    assert len(lines) == 3  # the recipe, more samples, and "train on"
    for line in lines:
        _, name, *words = shlex.split(line)
        ran(name, words)


@pytest.mark.parametrize("mistake", ["data.root=/none", "model.channels=[7,9]"])
def test_a_mistake_found_before_training_leaves_no_folder(
    command: Any, tiny: list[str], tmp_path: Path, mistake: str
) -> None:
    assert command("train", [*tiny, "hydra.run.dir=run", mistake])[0] == 2
    assert not (tmp_path / "run").exists()


def test_a_mistyped_folder_starts_no_run_but_one_with_a_recipe_does(
    ran: Any, refused: Any, tiny: list[str], tmp_path: Path
) -> None:
    assert "typo: no run to resume" in refused("train", ["hydra.run.dir=typo", "ckpt=auto", "trainer.max_steps=2"])
    assert not (tmp_path / "typo").exists()
    words = [*tiny, "samples.n=0", "trainer.max_steps=2", "hydra.run.dir=run", "ckpt=auto"]
    assert "starting from the beginning" in ran("train", words)


def test_a_run_whose_folder_is_renamed_says_so(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    record = Launch(tmp_path / "run").claim()

    def run() -> None:
        with record.running():
            (tmp_path / "run").rename(tmp_path / "other")
            record.update(step=1)

    with pytest.raises(UserError, match="run: it was moved or removed while its run was alive"):
        run()
    assert RunRecord(tmp_path / "other").state == "died"
