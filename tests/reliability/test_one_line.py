"""Settings and files that cannot be used cause an error in one line, never a traceback."""

import os

import pytest

pytestmark = pytest.mark.reliability


def one_line(result: tuple[int, str, str], word: str) -> None:
    """Check that the command exited with 2 and one line that contains the word."""
    status, out, err = result
    assert (status, err.count("\n")) == (2, 1), out + err
    assert word in err


def test_unusable_run_settings_give_one_line_errors(command, tiny):
    one_line(command("train", [*tiny, "trainer.max_epochs=-1"]), "max_epochs")
    one_line(command("train", [*tiny, "trainer.limit_train_batches=0"]), "trainer.limit_train_batches")


@pytest.mark.parametrize("name", ["train", "sample"])
def test_a_checkpoint_that_is_not_a_regular_file_is_refused(command, tiny, tmp_path, name):
    os.mkdir(tmp_path / "x.ckpt")
    one_line(command(name, [*(tiny if name == "train" else []), "ckpt=x.ckpt"]), "x.ckpt")


def test_a_missing_home_folder_gives_a_one_line_error(command, tiny, monkeypatch):
    def home(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("diffusion.files.Path.home", home)
    monkeypatch.delenv("DIFFUSION_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    one_line(command("train", tiny), "DIFFUSION_CACHE")
