"""Every metric in conf/metrics is built from its file, and --help documents conf/metrics and conf/features."""

import inspect

import pytest
import yaml
from hydra.utils import get_object

from diffusion.config.build import make
from diffusion.config.choices import conf_dir
from diffusion.config.help import documentation, summary
from diffusion.errors import UserError
from diffusion.metric.estimate import SampleMetric

METRICS = {
    name: node
    for file in sorted((conf_dir() / "metrics").glob("*.yaml"))
    for name, node in yaml.safe_load(file.read_text()).items()
    if name != "defaults"
}
FEATURES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((conf_dir() / "features").glob("*.yaml"))}


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_is_built_and_its_yaml_has_every_setting(name: str) -> None:
    metric = make(METRICS[name], f"metrics.{name}")(None)
    assert isinstance(metric, SampleMetric)
    assert inspect.signature(type(metric)).parameters.keys() - {"reference", "seed", "head"} == settings(METRICS[name])


def settings(node: dict[str, object]) -> set[str]:
    return {key for key in node if not key.startswith("_")}


@pytest.mark.parametrize("node", [*METRICS.values(), *FEATURES.values()], ids=[*METRICS, *FEATURES])
def test_help_documents_every_setting(node: dict[str, str]) -> None:
    assert settings(node) <= documentation(node["_target_"]).keys()
    assert summary(node["_target_"])
    assert settings(node) <= inspect.signature(get_object(node["_target_"])).parameters.keys()


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        ("kernel", "subsets", 0, "a whole number of at least 1"),
        ("kernel", "subset_size", 1, "a whole number of at least 2"),
        ("neighbours", "k", 0, "a whole number of at least 1"),
        ("density_coverage", "k", 2.5, "a whole number of at least 1"),
        ("cmmd", "sigma", 0, "a number above 0"),
        ("infinity", "points", 1, "a whole number of at least 2"),
    ],
)
def test_an_out_of_range_setting_gives_a_one_line_error(name: str, key: str, value: float, expected: str) -> None:
    with pytest.raises(UserError, match=f"metrics.{name}.{key}={value}: expected {expected}; --help metrics lists"):
        make({**METRICS[name], key: value}, f"metrics.{name}")
