"""Settings and runs without a command line."""

from collections.abc import Sequence
from pathlib import Path

from diffusion.base.files import replace
from diffusion.config.build import validated
from diffusion.config.choices import composed
from diffusion.config.schema import Train
from diffusion.errors import ProcessLost, UserError
from diffusion.runs.folder import read_yaml
from diffusion.runs.launch import Launch
from diffusion.runs.processes import run_ranks
from diffusion.runs.record import CONFIG, RunRecord, config_text
from diffusion.training import jobs


def settings(overrides: Sequence[str]) -> Train:
    """The settings of `diffusion train` with overrides."""
    return validated(Train, composed("train", ["name=test", *overrides]))


def train(overrides: Sequence[str], folder: Path) -> float | None:
    """Train in `folder`: on one device in this process, as rank 0."""
    from diffusion.training import run

    chosen = settings(overrides)
    folder.mkdir(parents=True, exist_ok=True)
    record = Launch(folder).claim()
    replace(folder / CONFIG, config_text(chosen))
    if jobs.devices_of(chosen.trainer) > 1:
        jobs.run_in_processes(chosen, record)
        return None
    try:
        return run.train(chosen, folder, record)
    finally:
        assert record.lock is not None
        record.lock.close()


def launch_here(processes: int, folder: Path, module: str, words: Sequence[str]) -> None:
    """Run a sweep's job in this process, which has already imported torch; replaces `run_ranks`."""
    from diffusion.training import run

    if processes > 1:
        run_ranks(processes, folder, module, words)
        return
    try:
        run.train(validated(Train, read_yaml(folder / CONFIG)), folder, RunRecord.join(folder))
    except UserError:
        raise
    except Exception as error:
        raise ProcessLost(f"process 0 of the run: {error}") from error
