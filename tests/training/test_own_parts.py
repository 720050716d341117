"""Parts of one's own, as in docs/extending.md: a command uses them only if the user names their folder."""

import re
from pathlib import Path

import pytest

import diffusion
from diffusion.base.files import PACKAGE
from diffusion.cli import export, new
from diffusion.cli.report import main as report
from diffusion.errors import UserError

TINY = ("model.width=8", "model.blocks=1", "sampler.steps=2", "samples.n=0", "score.n=0", "features=lite0")
TINY += ("trainer.accelerator=cpu", "trainer.max_steps=1", "hydra.run.dir=run")
OWN = ("--config-dir", "conf")
REFUSED = (
    "its {0} names my_{1}; a file may use only classes named in conf/{0}; if you trust it, pass --config-dir CONF "
    "(diffusion.load: config_dir=CONF), where CONF/{0}/NAME.yaml names it"
)
DATA, MODEL = REFUSED.format("data", "data.MyData"), REFUSED.format("model", "network.MyNetwork")


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A part of each kind and the recipe of the documentation, in the working directory."""
    for kind in new.EXAMPLES.iterdir():
        assert new.main([kind.name, f"my_{kind.name}", str(tmp_path)]) == 0
    page = (PACKAGE.parent / "docs/extending.md").read_text("utf-8")
    recipe = tmp_path / "conf/experiment/mine.yaml"
    recipe.parent.mkdir()
    recipe.write_text(re.search(r"```yaml\n(# @package _global_.*?)```", page, re.DOTALL)[1], "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.whole_report
@pytest.mark.usefixtures("undrawn")
def test_every_command_uses_custom_parts_only_with_a_given_config_dir(ran, refused, example, capfd):
    ran("train", [*OWN, "experiment=mine", *TINY])
    resuming = ["hydra.run.dir=run", "ckpt=auto", "trainer.max_steps=2"]
    assert refused("train", resuming).endswith(f"{DATA}\n")
    out = ran("train", [*OWN, *resuming])
    assert "resuming with the settings in" in out
    assert "other settings" not in out
    page = Path("run/README.md").read_text("utf-8")
    printed = re.findall(r"^diffusion .*", page, re.MULTILINE)
    assert len(printed) > 4
    assert all(" --config-dir conf " in line for line in printed), printed
    recipe = re.search(r"^diffusion train .* experiment=mine .*", page, re.MULTILINE)
    assert recipe
    assert " trainer.max_steps=2" in recipe[0]  # other seeds of it are as long as the run is now
    assert "trainer.max_steps=1" not in recipe[0]
    words = ["ckpt=run", "n=4", "device=cpu", "hydra.run.dir=out"]
    assert refused("sample", words).endswith(f"{MODEL}\n")
    ran("sample", [*OWN, *words])
    words += ["features=lite0"]
    assert refused("evaluate", words).endswith(f"{MODEL}\n")
    assert "energy_lite0" in ran("evaluate", [*words, *OWN])
    assert refused("study", ["sampler", *words, "samplers=[ddim]", "nfe=[2]"]).endswith(f"{MODEL}\n")

    assert export.main(["run"]) == 2
    assert capfd.readouterr().err.endswith(f"{MODEL}\n")
    assert export.main(["run", "mine.safetensors", *OWN]) == 0
    assert export.main(["run", "--config-dir", "nowhere"]) == 2
    assert "nowhere: no such folder" in capfd.readouterr().err
    report(["run"])
    assert "names my_schedule.MySchedule" in "".join(capfd.readouterr())
    report(["run", *OWN])
    assert "names my_" not in capfd.readouterr().out
    with pytest.raises(UserError, match="names my_network"):
        diffusion.load("mine.safetensors", device="cpu")
    model = diffusion.load("mine.safetensors", device="cpu", config_dir="conf")
    assert model.sample(2, progress=False).shape == (2, 3, 32, 32)

    words = ["-m", *OWN, "experiment=mine", *TINY[:-1], "hydra.sweep.dir=sweep"]
    assert "names my_" not in ran("train", words)
    assert "(figures/signal.png)" in Path("sweep/0/README.md").read_text("utf-8")  # of my_schedule
