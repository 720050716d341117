import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion.errors import UserError
from diffusion.report.__main__ import main
from diffusion.report.rebuild import schedule_of


def test_a_run_gets_the_figures_of_its_own_schedule(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run_folder)]) == 0
    assert capsys.readouterr().out == f"{run_folder / 'README.md'}\n"
    assert (run_folder / "figures/beta.png").is_file()
    schedule = schedule_of({"schedule": {"_target_": "diffusion.process.schedule.linear", "steps": 7}})
    assert schedule is not None
    assert schedule.steps == 7  # type: ignore[attr-defined]


def test_a_sweep_gets_its_table(
    tmp_path: Path, make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "sweep/0")
    make_run(tmp_path / "sweep/1", lr=1.0)
    assert main([str(tmp_path / "sweep")]) == 0
    assert "2 jobs in" in capsys.readouterr().out
    assert (tmp_path / "sweep/table.md").is_file()
    assert (tmp_path / "sweep/table.csv").is_file()


def test_a_wrong_path_is_one_line_and_status_2(
    tmp_path: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "empty"), str(run_folder)]) == 2
    nowhere, empty = capsys.readouterr().err.splitlines()
    assert nowhere.startswith("error: ")
    assert "nowhere: no such folder" in nowhere
    assert "empty: neither a run" in empty
    assert (run_folder / "README.md").is_file()  # the others are still reported on


@pytest.mark.parametrize("target", ["os.system", "diffusion.paths.os.system", "diffusion.nothing.here"])
def test_a_config_from_elsewhere_runs_nothing_of_its_choice(target: str) -> None:
    with pytest.raises(UserError, match="schedule names"):
        schedule_of({"schedule": {"_target_": target}})
    with pytest.raises(UserError, match="schedule names"):
        schedule_of({"schedule": {"_target_": "diffusion.process.schedule.Discrete", "betas": [{"_target_": target}]}})


def test_a_schedule_that_can_not_be_made_leaves_a_note(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run_folder / "config.yaml"
    config.write_text(config.read_text().replace("first: 0.0001", "frist: 0.0001"))
    assert main([str(run_folder)]) == 0
    assert "frist" in capsys.readouterr().err
    assert "`figures/beta.png` is missing" in (run_folder / "README.md").read_text()


def test_help_and_report_import_no_more_than_they_need() -> None:
    probe = (
        "import sys\n"
        "from diffusion.report.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'matplotlib', 'numpy', 'hydra', 'lightning'} & sys.modules.keys()\n"
        "import diffusion.report.run, diffusion.report.sweep, diffusion.report.rebuild\n"
        "heavy |= {'lightning', 'diffusion.training', 'matplotlib.pyplot'} & sys.modules.keys()\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a run's or a sweep's folder" in done.stdout
