import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffusion.config import untrusted
from diffusion.errors import UserError
from diffusion.report.__main__ import main


class StandIn:
    """A data module without its data."""

    def __init__(self, size: int):
        self.size = size

    def setup(self) -> None:
        if self.size == 0:
            raise UserError("no images here")
        images = torch.zeros(5, 3, self.size, self.size, dtype=torch.uint8)
        self.splits = {"val": SimpleNamespace(images=images)}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture's configs name `diffusion.data.StandIn`, as if conf/data contained it."""
    monkeypatch.setattr("diffusion.data.StandIn", StandIn, raising=False)
    known = untrusted.allowed_targets
    monkeypatch.setattr(untrusted, "allowed_targets", lambda part: known(part) | {"diffusion.data.StandIn"})


def test_a_run_gets_all_figures_of_its_schedule_and_data(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run_folder)]) == 0
    assert capsys.readouterr() == (f"{run_folder / 'README.md'}\n{run_folder / 'report.html'}\n", "")
    assert len(list((run_folder / "figures").iterdir())) == 7


def test_the_data_is_not_loaded_if_the_noising_strip_exists(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_folder / "figures").mkdir()
    (run_folder / "figures/noising.png").write_bytes(b"as it was")
    monkeypatch.setattr(StandIn, "setup", None)
    assert main([str(run_folder)]) == 0
    assert (run_folder / "figures/noising.png").read_bytes() == b"as it was"


def test_missing_data_leaves_a_note_and_the_other_figures(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run_folder / "config.yaml"
    config.write_text(config.read_text().replace("size: 32", "size: 0"))
    assert main([str(run_folder)]) == 0
    assert "no images here" in capsys.readouterr().err
    assert (run_folder / "figures/beta.png").is_file()
    assert "`figures/noising.png` is missing: the data's images" in (run_folder / "README.md").read_text()


def test_an_evaluation_of_a_runs_own_data_has_a_report(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_folder / "config.yaml").write_text("data: null\n")  # as `write_configuration` writes it
    assert main([str(run_folder)]) == 0
    assert capsys.readouterr().err == ""
    assert (run_folder / "report.html").is_file()


def test_the_report_of_a_sweep_is_its_comparison(
    tmp_path: Path, make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "sweep/0")
    make_run(tmp_path / "sweep/1", lr=1.0)
    (tmp_path / "sweep/multirun.yaml").touch()
    assert main([str(tmp_path / "sweep")]) == 0
    out = capsys.readouterr().out
    assert "Sweep sweep" in out
    for name in ("compare.md", "compare.csv", "runs.csv", "compare.png"):
        assert f"{tmp_path / 'sweep' / name}\n" in out
        assert (tmp_path / "sweep" / name).is_file()


def test_invalid_paths_give_one_line_errors_and_exit_status_2(
    tmp_path: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "empty"), str(run_folder)]) == 2
    nowhere, empty = capsys.readouterr().err.splitlines()
    assert nowhere.startswith("error: ")
    assert "nowhere: no such folder" in nowhere
    assert "empty: neither a run" in empty
    assert (run_folder / "README.md").is_file()  # the other runs still get reports


def test_an_untrusted_configuration_cannot_call_arbitrary_functions(
    run_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config, trace = run_folder / "config.yaml", tmp_path / "trace"
    config.write_text(f"schedule: {{_target_: os.mkdir, path: {trace}}}")
    assert main([str(run_folder)]) == 0
    assert "names os.mkdir" in capsys.readouterr().err
    assert not trace.exists()


def test_a_schedule_that_cannot_be_built_leaves_a_note(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run_folder / "config.yaml"
    config.write_text(config.read_text().replace("first: 0.0001", "frist: 0.0001"))
    assert main([str(run_folder)]) == 0
    assert "frist" in capsys.readouterr().err
    assert "`figures/beta.png` is missing" in (run_folder / "README.md").read_text()


def test_help_and_report_import_only_what_they_need() -> None:
    probe = (
        "import sys\n"
        "from diffusion.report.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "import diffusion.report.sweep\n"  # Hydra imports it at every start, for its callback
        "heavy = {'torch', 'matplotlib', 'lightning'} & sys.modules.keys()\n"
        "import diffusion.report.run, diffusion.config.build\n"
        "heavy |= {'lightning', 'diffusion.training', 'matplotlib.pyplot'} & sys.modules.keys()\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a run's or a sweep's folder" in done.stdout


def test_a_folder_of_runs_gets_a_list_with_links_to_their_pages(
    tmp_path: Path, make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "demo/first")
    make_run(tmp_path / "demo/second")
    make_run(tmp_path / "other/run")
    assert main([str(tmp_path / "demo/first"), str(tmp_path), str(tmp_path / "demo")]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [f"{tmp_path}/report.html", f"{tmp_path}/demo/report.html"]
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["first", "report.html", "second"]
    page = (tmp_path / "report.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    links = {run["name"]: run["link"] for run in data["runs"]}
    assert links == {"demo/first": "demo/first/report.html", "demo/second": None, "other/run": None}
