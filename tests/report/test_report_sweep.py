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
from diffusion.report.comparison import in_parts
from diffusion.report.sweep import SweepTable, compare_jobs

Make = Callable[..., Path]
HEAD = ["run", "state", "optimizer.lr", "val/mse", "fit/mse", "gap/mse", "fd_lite0", "kid_lite0", "seconds"]


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def jobs_in_markdown(path: Path) -> list[list[str]]:
    """The table of runs in compare.md, without the line below its header."""
    lines = path.read_text().partition("## Runs")[2].strip().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [table[0], *table[2:]]


def test_every_job_is_listed_with_its_state_settings_and_numbers(tmp_path: Path, make_run: Make) -> None:
    sweep = tmp_path / "sweep"
    for job, lr in ((0, 3e-4), (2, 1e-3), (10, 1e-2)):
        make_run(sweep / str(job), lr=lr)
    console = quiet()
    compare_jobs(sweep, console)
    head, *jobs = rows(sweep / "runs.csv")
    assert head == HEAD  # default_root_dir only reflects the job's folder, so it does not count
    assert [job[0] for job in jobs] == [str(sweep / name) for name in ("0", "2", "10")]
    assert [job[2] for job in jobs] == ["0.0003", "0.001", "0.01"]
    assert jobs[0][1] == "complete"
    assert [float(number) for number in jobs[0][3:]] == [0.06, 0.03, pytest.approx(0.03), 123.4, 0.0123, 306.2]
    assert jobs_in_markdown(sweep / "compare.md")[::3] == [
        HEAD, [str(sweep / "10"), "complete", "0.01", "0.06", "0.03", "0.03", "123.4", "0.0123", "306.2"],
    ]  # fmt: skip
    assert "256 images against the 250 images of the reference split `val`" in (sweep / "compare.md").read_text()
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "lr=0.0003" in printed
    assert "123.4" in printed


def test_a_wide_table_is_split_to_fit_the_console() -> None:
    head, rows = ["recipe", "seeds", *(f"metric {i}" for i in range(9))], [["x" * 60, "2", *["0.12345 ± 0.1"] * 9]]
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
    early = tmp_path / "sweep/2/.hydra"  # stopped before training: only Hydra's files exist
    early.mkdir(parents=True)
    (early / "config.yaml").write_text("seed: ${oc.env:SEED}\noptimizer: {_target_: torch.optim.AdamW, lr: 5.0}")
    (tmp_path / "sweep/figures").mkdir()
    sweep, console = tmp_path / "sweep", quiet()
    compare_jobs(sweep, console)
    head, *jobs = rows(sweep / "runs.csv")
    assert head == HEAD
    assert jobs[1] == [str(sweep / "1"), "failed", "0.1", *[""] * 6]
    assert jobs[2] == [str(sweep / "2"), "not started", "5", *[""] * 6]
    assert len(jobs) == 3
    assert jobs_in_markdown(sweep / "compare.md")[2:] == [[cell or "—" for cell in job] for job in jobs[1:]]
    for text in ((sweep / "compare.md").read_text().replace("`", ""), console.file.getvalue()):  # type: ignore[attr-defined]
        assert f"left out: {sweep / '1'}: failed: NaN at step 7" in text
        assert f"left out: {sweep / '2'}: not started" in text


def test_scores_of_different_protocols_get_separate_columns(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "sweep/0", scores=[{"metric": "fd_lite0", "what": "samples", "n": 256, "value": 100.0}])
    make_run(tmp_path / "sweep/1", scores=[{"metric": "fd_lite0", "what": "samples", "n": 64, "value": 50.0}])
    for job, lr in ((0, 1), (1, 2)):
        config = tmp_path / f"sweep/{job}/config.yaml"
        config.write_text(config.read_text().replace("seed: 0", f"seed: {lr}"))
    compare_jobs(tmp_path / "sweep", quiet())
    head, first, second = rows(tmp_path / "sweep/runs.csv")
    errors = ["val/mse", "fit/mse", "gap/mse"]
    assert head == ["run", "state", "seed", *errors, "fd_lite0 [1]", "fd_lite0 [2]", "seconds"]
    assert first[6:8] == ["100.0", ""]
    assert second[6:8] == ["", "50.0"]


def test_a_folder_without_jobs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a run .* nor a sweep"):
        compare_jobs(tmp_path, quiet())


def hydra_config(folder: Path, mode: RunMode = RunMode.MULTIRUN) -> DictConfig:
    job = {"num": 0, "name": "train"}
    return OmegaConf.create({"hydra": {"mode": mode, "sweep": {"dir": str(folder)}, "job": job}})


def test_the_hydra_callback_prints_the_comparison_of_its_sweep(
    tmp_path: Path, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "sweep/0")
    SweepTable().on_multirun_end(hydra_config(tmp_path / "sweep"))
    assert rows(tmp_path / "sweep/runs.csv")[1][0] == str(tmp_path / "sweep/0")
    out = capsys.readouterr().out
    assert "123.4" in out
    assert str(tmp_path / "sweep/compare.md") in out


def test_the_comparison_is_written_after_every_job_even_a_failed_one(
    tmp_path: Path, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "sweep/0")
    SweepTable().on_job_end(hydra_config(tmp_path / "sweep"), JobReturn(status=JobStatus.COMPLETED))
    assert (tmp_path / "sweep/runs.csv").is_file()
    assert capsys.readouterr().out == ""
    failed = JobReturn(status=JobStatus.FAILED)
    failed.return_value = ValueError("NaN at step 7")
    SweepTable().on_job_end(hydra_config(tmp_path / "sweep"), failed)
    assert "job 0 failed: ValueError: NaN at step 7; the jobs so far" in capsys.readouterr().out
    SweepTable().on_job_end(hydra_config(tmp_path / "none", RunMode.RUN), failed)
    assert capsys.readouterr().out == ""  # a single run is not part of a sweep
