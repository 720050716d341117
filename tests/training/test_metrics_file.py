"""metrics.csv and scores.json: written atomically, read with checks, and never lost."""

from pathlib import Path

import pytest

from diffusion.errors import UserError
from diffusion.metric.record import Reference, Score
from diffusion.runs.folder import append_scores, read_metrics, read_rows, read_scores
from diffusion.training.loggers import MetricsFile


def log(folder: Path, steps: range, resumed: tuple[Path, int] | None = None) -> MetricsFile:
    """Log losses at `steps`, with a validation after every second one."""
    logger = MetricsFile(folder)
    if resumed is not None:
        logger.keep(*resumed)
    for step in steps:
        logger.log_metrics({"loss": 0.5 + step, "epoch": 0.0}, step)
        if step % 2:
            logger.log_metrics({"val/mse": 0.25 * step}, step)
    return logger


def test_lines_are_written_immediately_and_a_new_column_keeps_old_lines(tmp_path):
    log(tmp_path, range(2))
    assert (tmp_path / "metrics.csv").read_bytes() == (
        b"epoch,loss,step,val/mse\r\n0,0.5,0,\r\n0,1.5,1,\r\n,,1,0.25\r\n"
    )


@pytest.mark.parametrize("torn", [b"", b"0,0.1", b"0,0.1,4,\r"])
def test_a_resumed_run_keeps_the_lines_up_to_its_step(tmp_path, torn):
    log(tmp_path, range(4))
    whole = (tmp_path / "metrics.csv").read_bytes()
    with (tmp_path / "metrics.csv").open("ab") as file:
        file.write(torn)
    assert len(read_rows(tmp_path / "metrics.csv")) == 6
    log(tmp_path, range(2, 4), (tmp_path, 2))
    assert (tmp_path / "metrics.csv").read_bytes() == whole


def test_the_lines_of_a_resumed_run_in_another_folder_are_copied_at_once(tmp_path):
    (tmp_path / "new").mkdir()
    log(tmp_path, range(4))
    before = (tmp_path / "metrics.csv").read_bytes()
    log(tmp_path / "new", range(0), (tmp_path, 2))
    assert [row["step"] for row in read_rows(tmp_path / "new/metrics.csv")] == [0, 1, 1]
    assert (tmp_path / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"0,1\r\n", b"0,x,4,\r\n"])
def test_a_damaged_metrics_file_is_named(tmp_path, damage):
    log(tmp_path, range(4))
    with (tmp_path / "metrics.csv").open("ab") as file:
        file.write(damage)
    with pytest.raises(UserError, match=r"metrics\.csv: not readable \(.*(argument|codec|float)"):
        read_metrics(tmp_path / "metrics.csv")


def score(value: float, **source: object) -> Score:
    return Score("fid", value, 8, reference=Reference("val", 8, "k"), source={"step": 5, **source})


def test_a_recomputed_score_replaces_the_earlier_one(tmp_path):
    append_scores(tmp_path, [score(1.0), score(2.0, sampler="ddim")])
    append_scores(tmp_path, [score(3.0, seconds_per_image=0.1), score(4.0, step=6)])
    assert [s.value for s in read_scores(tmp_path)] == [2.0, 3.0, 4.0]


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_scores_file_is_named(tmp_path, damage):
    (tmp_path / "scores.json").write_bytes(damage)
    with pytest.raises(UserError, match=r"scores\.json: "):
        append_scores(tmp_path, [score(1.0)])
