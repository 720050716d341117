"""Log messages of sample, evaluate and study are printed, and kept in the output folder."""

import logging
from pathlib import Path

import pytest
import torch

from diffusion.evaluation import commands, study


@pytest.mark.parametrize(
    ("words", "module"),
    [(["sample"], commands), (["evaluate"], commands), (["study", "sampler"], study)],
)
def test_a_warning_is_printed_and_kept(command, tmp_path: Path, monkeypatch, words, module) -> None:
    def choose_device(name: str) -> torch.device:
        logging.getLogger("diffusion.metric.reference").warning("the statistics are damaged")
        return torch.device("cpu")

    monkeypatch.setattr(module, "choose_device", choose_device)
    name, *rest = words
    status, out, err = command(name, [*rest, "ckpt=nowhere.ckpt", "hydra.run.dir=out"])
    assert status == 2
    assert "the statistics are damaged\n" in out
    assert "nowhere.ckpt: there is no such file" in err
    (line,) = (tmp_path / f"out/{name}.log").read_text().splitlines()
    assert line.endswith("[diffusion.metric.reference][WARNING] the statistics are damaged")
