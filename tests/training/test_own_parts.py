"""Custom parts, as in docs/example: a command uses them only if the user names their folder."""

import shutil

import pytest

import diffusion
from diffusion import export
from diffusion.config.choices import searching
from diffusion.config.composition import choice
from diffusion.config.untrusted import allowed_targets
from diffusion.errors import UserError
from diffusion.files import PACKAGE
from diffusion.report.__main__ import main as report

TINY = ("data.n=16", "data.resolution=8", "model.width=4", "sampler.steps=2", "samples.n=0", "score.n=0")
TINY += ("trainer.accelerator=cpu", "trainer.max_steps=1", "hydra.run.dir=run")
OWN = ("--config-dir", "conf")
REFUSED = (
    "its {} names mine.{}; a file may use only classes named in conf/{}; if you trust it, pass --config-dir CONF "
    "(diffusion.load: config_dir=CONF), where CONF/{}/NAME.yaml names it"
)
DATA, MODEL = REFUSED.format("data", "Discs", "data", "data"), REFUSED.format("model", "Convolutions", "model", "model")


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example in the working directory, from which `python -m` imports its module."""
    shutil.copytree(PACKAGE.parent / "docs/example", tmp_path, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.whole_report
def test_every_command_uses_custom_parts_only_with_a_given_config_dir(command, example, capfd):
    def refused(name, words, reason):
        status, _, err = command(name, words)
        assert status == 2
        assert err.startswith("error: ")
        assert err.endswith(f"{reason}\n")
        assert err.count("\n") == 1

    def done(name, words):
        status, out, err = command(name, words)
        assert status == 0, out + err
        return out

    done("train", [*OWN, "experiment=mine", *TINY])
    resuming = ["hydra.run.dir=run", "ckpt=auto", "trainer.max_steps=2"]
    refused("train", resuming, DATA)
    out = done("train", [*OWN, *resuming])
    assert "resuming with the settings in run/config.yaml" in out
    assert "other settings" not in out
    words = ["ckpt=run", "n=4", "device=cpu", "hydra.run.dir=out"]
    refused("sample", words, MODEL)
    done("sample", [*OWN, *words])
    done("sample", ["hydra.searchpath=[conf]", *words])
    words += ["features=lite0"]
    refused("evaluate", words, MODEL)
    done("evaluate", [*words, *OWN])
    words = ["sampler", *words, "samplers=[ddim]", "nfe=[2]"]
    refused("study", words, MODEL)
    done("study", [*words, *OWN])

    assert export.main(["run"]) == 2
    assert capfd.readouterr().err.endswith(f"{MODEL}\n")
    assert export.main(["run", "mine.safetensors", *OWN]) == 0
    assert export.main(["run", "--config-dir", "nowhere"]) == 2
    assert "nowhere: no such folder" in capfd.readouterr().err
    report(["run"])
    assert "names mine.Circle" in capfd.readouterr().err
    report(["run", *OWN])
    assert not capfd.readouterr().err
    with pytest.raises(UserError, match="names mine"):
        diffusion.load("mine.safetensors", device="cpu")
    model = diffusion.load("mine.safetensors", device="cpu", config_dir="conf")
    assert model.sample(2, progress=False).shape == (2, 3, 8, 8)


def test_a_search_path_named_in_a_file_is_not_trusted(command, example, tmp_path):
    assert command("train", [*OWN, "experiment=mine", *TINY])[0] == 0
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text() + f"hydra: {{searchpath: ['{tmp_path}/conf']}}\n")
    shutil.copytree(tmp_path / "conf", tmp_path / "run/conf")
    for words in (["hydra.run.dir=run"], ["hydra.run.dir=run", "--config-dir", "other"]):
        (tmp_path / "other").mkdir(exist_ok=True)
        status, _, err = command("train", [*words, "ckpt=auto", "trainer.max_steps=2"])
        assert (status, err.count("\n")) == (2, 1)
        assert err.endswith(f"{DATA}\n")


def test_custom_choices_are_listed_and_composed(command, example, tmp_path):
    (tmp_path / "conf/sampler").mkdir()
    (tmp_path / "conf/sampler/mine.yaml").write_text(
        "defaults:\n- /grid@grid: karras\n_target_: mine.Sampler\nsteps: 3\n"
    )
    with searching(["conf"]):
        node = choice("sampler", "mine", steps=5)
        assert (node["_target_"], node["steps"]) == ("mine.Sampler", 5)
        assert node["grid"] == choice("grid", "karras")
        assert "mine.Sampler" in allowed_targets("sampler")
        (tmp_path / "conf/model/broken.yaml").write_text("width: [")
        with pytest.raises(UserError, match=r"broken\.yaml: not readable yaml"):
            allowed_targets("model")
    assert "mine.Sampler" not in allowed_targets("sampler")
    (tmp_path / "conf/model/broken.yaml").unlink()
    _, out, _ = command("train", [*OWN, "--help", "model"])
    assert "model=mine" in out
    _, _, err = command("train", [*OWN, "model=mien"])
    assert "did you mean mine" in err
    _, _, err = command("train", ["--config-dir", "nowhere", "model=mine"])
    assert err == "error: nowhere: no such folder; expected one like conf/, such as CONF with CONF/model/NAME.yaml\n"
