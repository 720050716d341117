"""Messages of commands: about arguments without effect, in `--help`, and in log files."""

import errno
import logging
import os
from pathlib import Path

import pytest
import torch

from diffusion.config import messages
from diffusion.evaluation import commands
from diffusion.files import replace
from diffusion.study import samplers
from diffusion.training import worker


@pytest.mark.parametrize(
    ("words", "module", "called"),
    [
        (["sample"], commands, "choose_device"),
        (["evaluate"], commands, "choose_device"),
        (["study", "sampler"], samplers, "choose_devices"),
    ],
)
def test_a_warning_is_printed_and_logged(command, tmp_path: Path, monkeypatch, words, module, called) -> None:
    def warn(*_: object) -> list[torch.device]:
        logging.getLogger("diffusion.metric.reference").warning("the statistics are damaged")
        return [torch.device("cpu")]

    monkeypatch.setattr(module, called, warn)
    name, *rest = words
    status, out, err = command(name, [*rest, "ckpt=nowhere.ckpt", "hydra.run.dir=out"])
    assert status == 2
    assert "the statistics are damaged\n" in out
    assert "nowhere.ckpt: no such file" in err
    (line,) = (tmp_path / f"out/{name}.log").read_text().splitlines()
    assert line.endswith("[diffusion.metric.reference][WARNING] the statistics are damaged")


def test_a_bug_ends_a_command_with_a_traceback_and_status_1(command, monkeypatch):
    """Python's own status for an exception that nothing handles."""

    def buggy(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(commands, "opened", buggy)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        command("sample", ["ckpt=x", "device=cpu", "hydra.run.dir=out"])
    monkeypatch.setattr(worker, "job", buggy)
    with pytest.raises(SystemExit) as ended:
        worker.main(["out"])
    assert ended.value.code == 1


MENDED = "choose a folder you can write to (hydra.run.dir=…)\n"


def failing(number: int, file: str | None):
    """Hydra's function that writes .hydra/*.yaml, with an error."""

    def _save_config(*_: object) -> None:
        raise OSError(number, os.strerror(number), file)

    return _save_config


@pytest.mark.parametrize(
    ("number", "file", "line"),
    [
        (errno.ENOSPC, None, "cannot write the output folder: No space left on device; free some space, or "),
        (errno.EROFS, "out/.hydra/config.yaml", "cannot write out/.hydra/config.yaml: Read-only file system; "),
        (errno.EACCES, "out/.hydra/config.yaml", "cannot write out/.hydra/config.yaml: Permission denied; "),
    ],
)
def test_a_folder_in_which_hydra_cannot_write_gives_a_one_line_error(command, monkeypatch, number, file, line) -> None:
    monkeypatch.setattr("hydra.core.utils._save_config", failing(number, file))
    status, _, err = command("sample", ["ckpt=nowhere.ckpt", "hydra.run.dir=out"])
    assert (status, err) == (2, f"error: {line}{MENDED}")


def test_a_full_disk_on_which_no_new_folder_fits_gives_a_one_line_error(command, monkeypatch) -> None:
    """The default folder is created while Hydra resolves the configuration."""

    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "mkdir", full)
    status, _, err = command("sample", ["ckpt=nowhere.ckpt"])
    line = f"error: cannot write outputs/samples: {os.strerror(errno.ENOSPC)}; free some space, or {MENDED}"
    assert (status, err) == (2, line)


WORDS = {
    "data.root=photos": "data.root: it is a setting of data=cifar10 or data=folder; choose that, too",
    "root=photos data=folder": "root: unknown setting (did you mean data.root?); --help lists all of them",
    "schedule=linear,cosine": "schedule=linear,cosine: add -m to run them one by one",
    "lr=1e-4": "lr: unknown setting (did you mean optimizer.lr?); --help lists all of them",
    "weighting=min_snr": (
        "weighting: it is part of another group; choose it with its place: weighting@objective.weighting=…"
    ),
    "grid=karras": (
        "grid: it is part of another group; choose it with its place: grid@likelihood.grid=… or grid@sampler.grid=…"
    ),
    "--lr 1e-4": "--lr 1e-4: expected KEY=VALUE, here optimizer.lr=1e-4",
    "--lr=1e-4 seed=3": "--lr=1e-4: expected KEY=VALUE, here optimizer.lr=1e-4",
    "optimizer.lr 1e-4": "optimizer.lr 1e-4: expected KEY=VALUE, here optimizer.lr=1e-4",
    "seed=3 -m hello": "hello: expected KEY=VALUE; --help lists the keys",
    "=3": "=3: expected KEY=VALUE; --help lists the keys",
    "-x": "-x: expected KEY=VALUE; --help lists the keys",
    "--cfg": "argument --cfg/-c: expected one argument; --help lists the settings",
}


@pytest.mark.parametrize("words", WORDS)
def test_unknown_or_malformed_arguments_give_a_one_line_error(command, words) -> None:
    assert command("train", words.split()) == (2, "", f"error: {WORDS[words]}\n")


def test_options_and_settings_can_be_mixed(command) -> None:
    assert command("train", ["seed=3", "--cfg", "job", "-p", "seed", "name=x"]) == (0, "3\n", "")


@pytest.mark.parametrize("name", ["status", "compare", "report", "export", "watch", "prune", "reproduce", "studio"])
def test_an_unknown_option_gives_a_one_line_error(command, name) -> None:
    status, _, err = command(name, ["--nonsense", "x"])
    assert status == 2
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(f"--help lists the options of python -m diffusion.{name}")


def test_help_lists_nested_groups_with_their_config_path(command) -> None:
    _, out, _ = command("sample", ["--help"])
    listed = {line.split()[0] for line in out.partition("Settings")[0].splitlines() if "=  " in line}
    assert "unipc, run (default)" in " ".join(out.split())
    assert listed == {
        "sampler=",
        "guidance=",
        "grid@sampler.grid=",
        "threshold@sampler.threshold=",
        "variance@sampler.variance=",
    }


def test_gpu_out_of_memory_gives_a_one_line_error(command, tiny) -> None:
    status, _, err = command("train", [*tiny, "samples.n=0", "optimizer._target_=deaths.memory"])
    assert status == 2
    (line,) = err.splitlines()
    assert line.startswith("error: CUDA out of memory: lower the batch size")
    assert "lower batch_size, which" in str(messages.explain(torch.OutOfMemoryError("CUDA out of memory"), "sample"))


def test_a_file_that_may_not_be_replaced_gives_a_one_line_error(tmp_path: Path, monkeypatch) -> None:
    """Such as run.json in the folder of somebody else's run."""

    def denied(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(PermissionError) as error:
        replace(tmp_path / "run.json", "{}")
    line = messages.explain(error.value, "train")
    assert line is not None
    assert line.startswith(f"cannot write {tmp_path}/")
    assert "choose a folder you can write to (hydra.run.dir=…)" in line


def test_a_group_that_a_command_lacks_is_not_recommended(command) -> None:
    err = command("sample", ["ckpt=x", "data.root=photos"])[2]
    assert err.startswith("error: data.root: unknown setting")
    assert "choose that" not in err


def test_a_setting_of_a_callback_that_was_not_chosen_names_the_callback(command, tiny) -> None:
    err = command("train", [*tiny, "callbacks.early_stopping.patience=3"])[2]
    assert err == "error: callbacks.early_stopping.patience: set callbacks=early_stopping, too\n"


def test_too_few_scored_samples_are_reported_with_the_name_of_the_setting(command, tiny) -> None:
    err = command("train", [*tiny, "score.n=1", "features=lite0"])[2]
    assert err.startswith(
        "error: score.n=1: scores need at least 4 images; use as many as time allows, such as score.n="
    )


def test_the_steps_of_the_runs_sampler_are_suggested(command) -> None:
    assert "steps: unknown setting (did you mean sampler.steps?)" in command("sample", ["ckpt=x", "steps=10"])[2]
