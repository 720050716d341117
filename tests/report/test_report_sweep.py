import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from diffusion.errors import UserError
from diffusion.report.sweep import SweepTable, in_parts, sweep_table

Make = Callable[..., Path]
HEAD = ["job", "state", "optimizer.lr", "val/mse", "fit/mse", "fd_lite0", "kid_lite0", "seconds"]


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_row_per_job_with_only_what_differs(tmp_path: Path, make_run: Make) -> None:
    for job, lr in ((0, 3e-4), (2, 1e-3), (10, 1e-2)):
        make_run(tmp_path / f"sweep/{job}", lr=lr)
    console = quiet()
    markdown, table = sweep_table(tmp_path / "sweep", console)
    head, *jobs = rows(table)
    assert head == HEAD  # default_root_dir differs by the job's own folder only, which is no setting
    assert [job[0] for job in jobs] == ["0", "2", "10"]
    assert [job[2] for job in jobs] == ["0.0003", "0.001", "0.01"]
    assert jobs[0][3:] == ["0.06", "0.03", "123.4", "0.0123", "306.2"]
    text = markdown.read_text()
    assert "| 10 | complete | 0.01 | 0.06 | 0.03 | 123.4 | 0.0123 ± 0.0021 | 306 |" in text
    assert "256 images against the 250 images of the reference split `val`" in text
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "lr=0.0003" in printed
    assert "123.4" in printed


def test_a_wide_table_comes_in_parts_none_wider_than_the_console() -> None:
    head, rows = ["settings", "job", *(f"metric {i}" for i in range(9))], [["x" * 60, "0", *["0.12345 ± 0.1"] * 9]]
    console = Console(file=io.StringIO(), width=80)
    for part in in_parts(head, rows, 80):
        console.print(part)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("0.12345 ± 0.1") == 9
    assert "…" not in printed


def test_failed_and_unstarted_jobs_are_listed(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "sweep/0")
    failed = make_run(tmp_path / "sweep/1", lr=0.1, info={"state": "failed", "reason": "NaN at step 7"}, scores=[])
    (failed / "metrics.csv").unlink()
    early = tmp_path / "sweep/2/.hydra"  # stopped before training: only what Hydra wrote is there
    early.mkdir(parents=True)
    (early / "config.yaml").write_text("seed: ${oc.env:SEED}\noptimizer: {_target_: torch.optim.AdamW, lr: 5.0}")
    (tmp_path / "sweep/figures").mkdir()
    markdown, table = sweep_table(tmp_path / "sweep", quiet())
    head, *jobs = rows(table)
    assert head == HEAD
    assert jobs[1] == ["1", "failed", "0.1", "", "", "", "", ""]
    assert jobs[2] == ["2", "not started", "5", "", "", "", "", ""]
    assert len(jobs) == 3
    assert "- job 1 failed: NaN at step 7" in markdown.read_text()


def test_scores_of_different_protocols_are_not_one_column(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "sweep/0", scores=[{"metric": "fd_lite0", "what": "samples", "n": 256, "value": 100.0}])
    make_run(tmp_path / "sweep/1", scores=[{"metric": "fd_lite0", "what": "samples", "n": 64, "value": 50.0}])
    head, first, second = rows(sweep_table(tmp_path / "sweep", quiet())[1])
    assert head == ["job", "state", "val/mse", "fit/mse", "fd_lite0 [1]", "fd_lite0 [2]", "seconds"]
    assert first[4:6] == ["100.0", ""]
    assert second[4:6] == ["", "50.0"]


def test_a_folder_without_jobs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in its sub-folders"):
        sweep_table(tmp_path, quiet())


def hydra_config(folder: Path, mode: RunMode = RunMode.MULTIRUN) -> DictConfig:
    return OmegaConf.create({"hydra": {"mode": mode, "sweep": {"dir": str(folder)}, "job": {"num": 0}}})


def test_the_hydra_callback_shows_the_table_of_its_sweep(
    tmp_path: Path, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "sweep/0")
    SweepTable().on_multirun_end(hydra_config(tmp_path / "sweep"))
    assert rows(tmp_path / "sweep/table.csv")[1][0] == "0"
    assert str(tmp_path / "sweep/table.md") in capsys.readouterr().out


def test_the_table_is_there_after_every_job_well_or_not(
    tmp_path: Path, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "sweep/0")
    SweepTable().on_job_end(hydra_config(tmp_path / "sweep"), JobReturn(status=JobStatus.COMPLETED))
    assert (tmp_path / "sweep/table.csv").is_file()
    assert capsys.readouterr().out == ""
    failed = JobReturn(status=JobStatus.FAILED)
    failed.return_value = ValueError("NaN at step 7")
    SweepTable().on_job_end(hydra_config(tmp_path / "sweep"), failed)
    assert "job 0 failed: NaN at step 7; the jobs so far" in capsys.readouterr().out
    SweepTable().on_job_end(hydra_config(tmp_path / "none", RunMode.RUN), failed)
    assert capsys.readouterr().out == ""  # a run of its own has no sweep to keep
