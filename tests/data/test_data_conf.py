"""Every conf/data/*.yaml builds its class and sets each of its options, and --help documents them."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from diffusion.config.choices import conf_dir
from diffusion.config.help import documentation
from diffusion.data import ImageData

FILES = sorted((conf_dir() / "data").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_yaml_builds_its_class_and_sets_every_option(file: Path, tmp_path: Path) -> None:
    config = OmegaConf.create({"seed": 3, "data": OmegaConf.load(file)})
    if OmegaConf.is_missing(config.data, "root"):
        config.data.root = str(tmp_path)
    data = instantiate(config.data)
    assert isinstance(data, ImageData)
    # Random splits do not use the run's seed, so runs with different seeds share them.
    assert (data.seed, data.batch_size) == (3 if file.stem == "landscapes" else 0, 8)
    kind = get_class(config.data._target_)
    options = {*inspect.signature(kind).parameters, *inspect.signature(ImageData).parameters} - {"options"}
    assert set(config.data) - {"_target_"} == options
    assert documentation(config.data._target_).keys() >= options


def test_conf_data_has_exactly_the_expected_yaml_files() -> None:
    assert [file.stem for file in FILES] == ["cifar10", "folder", "landscapes"]
