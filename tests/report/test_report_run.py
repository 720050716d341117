import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from diffusion.errors import UserError
from diffusion.process.schedule import linear
from diffusion.report.run import compose, write_report
from diffusion.runs.folder import Run

NAMES = {"noising.png", "beta.png", "samples.png", "mse.png", "signal.png", "bins.png", "gap.png"}


def images(n: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", text)


def cells(text: str, first: str) -> list[list[str]]:
    """The rows of the README's tables whose first cell is `first`."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[0] == first]


def test_the_report_of_a_complete_run_has_all_figures_links_and_facts(run_folder: Path) -> None:
    readme = write_report(run_folder, linear(100), images())
    assert readme == run_folder / "README.md"
    text = readme.read_text()
    assert {path.name for path in (run_folder / "figures").iterdir()} == NAMES
    for name in NAMES:
        with Image.open(run_folder / "figures" / name) as picture:
            assert min(picture.size) > 200
        assert f"](figures/{name})" in text
    assert [link for link in links(text) if not (run_folder / link).exists()] == []
    for link in ("config.yaml", "run.json", "metrics.csv", "scores.json", "checkpoints/best.ckpt", "samples/final.png"):
        assert link in links(text)
    assert "This run is complete." in text
    for fact, value in {
        "training steps": "400 (8 epochs)",
        "images": "2,091 train, 250 val, 251 test",
        "parameters": "1,234,567",
        "time": "5 min 6 s",
        "device": "cpu",
        "CPU cores of the machine": "2",
        "started": "2026-01-02 03:04:05",
        "finished": "2026-01-02 03:09:11",
        "versions": "torch 2.13.0",
    }.items():
        assert cells(text, fact) == [[fact, value]]
    assert "python -m diffusion.train experiment=demo" in text
    assert cells(text, "`optimizer`") == [["`optimizer`", "AdamW(lr=0.0003, betas=[0.9, 0.999])"]]
    assert cells(text, "`schedule`") == [["`schedule`", "linear(steps=100, first=0.0001, last=0.02)"]]
    assert "missing" not in text.lower()


def test_scores_are_listed_with_protocol_and_baselines(run_folder: Path) -> None:
    text = compose(Run(run_folder), {})
    how = "samples, step 400, ema weights, DDIM(steps=50, eta=0), seed 7"
    assert cells(text, "fd_lite0") == [["fd_lite0", "**123.4**", "290.2", "301.5", "41.75", "—", "[1]", how]]
    # the KID of the noise has n = 128, a different protocol, so it must not be in the row of the samples
    assert cells(text, "kid_lite0") == [
        ["kid_lite0", "**0.0123 ± 0.0021**", "—", "—", "—", "—", "[2]", how],
        ["kid_lite0", "—", "—", "0.4560 ± 0.0010", "—", "—", "[3]", "noise"],
    ]
    assert (
        "256 images against the 250 images of the reference split `val` (key `k3y`); features `lite0`, "
        "weights hash `a1b2c3`, resize `bicubic-antialias`"
    ) in text
    assert "kid_lite0: 128 images" in text


def test_scores_of_images_and_of_a_named_sampler_are_listed(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    record = {
        "metric": "kid",
        "what": "images",
        "value": 0.5,
        "std": None,
        "n": 9,
        "settings": {"subset_size": 8},
        "resolution": "64x64",
    }
    named = {
        "metric": "fid",
        "what": "samples",
        "value": 9.0,
        "sampler": {"name": "DDIM", "steps": 50, "grid": "uniform"},
        "low": 8.5,
        "high": 9.5,
    }
    text = compose(Run(make_run(tmp_path / "run", scores=[record, named])), {})
    assert cells(text, "kid") == [["kid", "**0.5**", "—", "—", "—", "—", "[1]", "images"]]
    assert cells(text, "fid")[0][1] == "**9.00 [8.50, 9.50]**"
    assert cells(text, "fid")[0][-1] == "samples, DDIM(steps=50, grid=uniform)"
    assert "9 images of 64x64 pixels against a reference that was not recorded" in text
    assert "resize not recorded, subset_size=8" in text


def test_an_untrained_network_with_another_sampler_is_not_a_baseline(
    tmp_path: Path, make_run: Callable[..., Path], run_folder: Path
) -> None:
    records = json.loads((run_folder / "scores.json").read_text())
    records[2]["sampler"] = {"_target_": "diffusion.process.sampler.Ancestral", "steps": 1000}
    text = compose(Run(make_run(tmp_path / "other", scores=records)), {})
    trained, untrained = cells(text, "fd_lite0")
    assert trained[2] == "—"
    assert untrained[2] == "290.2"
    assert "Ancestral(steps=1000)" in untrained[7]


def test_the_mse_table_shows_last_and_best(run_folder: Path) -> None:
    text = compose(Run(run_folder), {})
    assert "last (step 400)" in text
    assert "at the best validation (step 300)" in text
    assert cells(text, "validation images") == [["validation images", "0.06", "0.05"]]
    assert cells(text, "gap (validation − training)")[0][1:] == ["0.03", "0.01"]


def test_the_report_names_the_validated_weights(run_folder: Path, without_average: Callable[[Path], None]) -> None:
    text = write_report(run_folder).read_text()
    assert "For the EMA weights unless stated otherwise." in text
    assert "Lines: EMA weights; dashed: raw weights; grey" in text
    without_average(run_folder)
    text = write_report(run_folder).read_text()
    assert "For the raw weights unless stated otherwise." in text
    assert "Lines: raw weights; grey" in text
    assert "EMA" not in text


def test_missing_files_are_named_in_the_report(run_folder: Path) -> None:
    (run_folder / "run.json").unlink()
    (run_folder / "scores.json").unlink()
    (run_folder / "metrics.csv").unlink()
    shutil.rmtree(run_folder / "samples")
    shutil.rmtree(run_folder / "checkpoints")
    text = write_report(run_folder).read_text()
    for said in (
        "run.json is missing",
        "No scores were computed.",
        "No validation was logged.",
        "No samples were written.",
        "There is no checkpoint",
        "`figures/mse.png` is missing: metrics.csv contains no losses",
        "`figures/beta.png` is missing: the noise schedule was not available",
        "Missing: `run.json`, `metrics.csv`, `scores.json`, `samples`, `checkpoints/last.ckpt`",
    ):
        assert said in text
    assert [link for link in links(text) if not (run_folder / link).exists()] == []


def test_the_report_of_a_failed_run_states_the_reason(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    text = compose(Run(make_run(tmp_path / "failed", info={"state": "failed", "reason": "NaN"})), {})
    assert "**This run failed**; its partial results are below. The reason: `NaN`." in text
    assert cells(text, "time") == cells(text, "device") == []  # not recorded


def test_an_existing_figure_is_kept_if_its_data_is_unavailable(run_folder: Path) -> None:
    write_report(run_folder, linear(100), images())
    before = (run_folder / "figures/noising.png").read_bytes()
    text = write_report(run_folder).read_text()
    assert (run_folder / "figures/noising.png").read_bytes() == before
    assert "](figures/noising.png)" in text


def test_the_suggested_commands_contain_the_checkpoint_paths(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_folder.parent)
    text = compose(Run(Path("demo")), {})
    assert "python -m diffusion.sample ckpt=demo/checkpoints/best.ckpt" in text
    assert "python -m diffusion.train hydra.run.dir=demo ckpt=auto\n" in text
    run_folder.rename(run_folder.with_name("demo (2)"))
    text = compose(Run(Path("demo (2)")), {})
    assert "python -m diffusion.sample 'ckpt=\"demo (2)/checkpoints/best.ckpt\"' n=64" in text
    assert "python -m diffusion.train 'hydra.run.dir=\"demo (2)\"' ckpt=auto\n" in text
    assert "python -m diffusion.report 'demo (2)'\n" in text


def test_a_folder_without_a_run_and_damaged_files_give_one_line_errors(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no run here"):
        Run(tmp_path / "empty")
    for name, content in (
        ("run.json", "{"),
        ("scores.json", "{}"),
        ("config.yaml", "a: ["),
        ("metrics.csv", "step,a\n1,x\n"),
        ("metrics.csv", "step,a\n1,2,3\n"),
    ):
        good = (run_folder / name).read_text()
        (run_folder / name).write_text(content)
        with pytest.raises(UserError, match=re.escape(name)):
            compose(Run(run_folder), {})
        (run_folder / name).write_text(good)


VALUES = [
    1e-5, 1.5e-7, 1e22, 1e-3, 5e-324, math.inf, -math.inf, math.nan, 0, -3, 10**20, True, False, None, [[1, [2.5e-9]]],
    "on", "No", "y", "~", "null", "", "0x1", "017", "12:30", "1:2:3.5", "1_000", ".5", "5.", ".nan", "2024-01-01",
    "1e-5", "1e5", "=", "<<", "é 你好 🙂", "a: b", "# x", "- x", "{a}", "'q'", "*a", "!c", "line\nbreak", "word " * 60,
]  # fmt: skip


@pytest.mark.parametrize("name", ["config.yaml", ".hydra/config.yaml"])
def test_every_value_of_a_configuration_is_read_as_written(tmp_path: Path, name: str) -> None:
    """config.yaml is written with PyYAML, and .hydra/config.yaml with OmegaConf."""
    written = {"values": VALUES}
    text = OmegaConf.to_yaml(OmegaConf.create(written)) if "/" in name else yaml.safe_dump(written, allow_unicode=True)
    (tmp_path / ".hydra").mkdir()
    (tmp_path / name).write_text(text, "utf-8")
    assert repr(Run(tmp_path).config) == repr(written)
