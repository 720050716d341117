import hashlib
import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as fidelity
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from diffusion.base.files import PACKAGE
from diffusion.config.choices import conf_dir
from diffusion.errors import UserError
from diffusion.metric import features
from diffusion.metric.features import Inception, Lite0
from diffusion.metric.precision import SETTINGS, set_precision

WEIGHTS = fidelity.URL_INCEPTION_V3.rpartition("/")[2]


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """The path of the weights in torch.hub's folder; there are no weights and no network access."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise URLError("no network here")

    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    return tmp_path / "torch" / "hub" / "checkpoints" / WEIGHTS


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory) -> Path:
    """A file in the right format with other weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        net = fidelity.FeatureExtractorInceptionV3("random", ["2048"])
    file = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(net.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def lite0() -> Lite0:
    return Lite0()


def photograph(name: str, side: int) -> Tensor:
    """uint8 (1, 3, side, side): the middle square of a bundled photograph."""
    image = Image.open(PACKAGE / "data" / "landscapes" / "photos" / f"{name}.jpg")
    image.draft("RGB", (2 * side, 2 * side))
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    return pil_to_tensor(image.crop((left, top, left + short, top + short)).resize((side, side)))[None]


def test_auto_falls_back_to_lite0_with_a_one_line_warning(offline: Path, capsys) -> None:
    extractor = instantiate(OmegaConf.load(conf_dir() / "features" / "auto.yaml"))
    assert (extractor.name, extractor.named("fd"), extractor.named("kid")) == ("lite0", "fd_lite0", "kid_lite0")
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.slow
def test_inception_loads_a_weights_file_and_matches_torch_fidelity(inception_file: Path, monkeypatch) -> None:
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with pytest.raises(UserError):
        Inception(inception_file)  # not the standard weights, for which fid is reserved
    sha256 = hashlib.sha256(inception_file.read_bytes()).hexdigest()
    monkeypatch.setattr(features, "INCEPTION_SHA256", sha256)
    extractor = instantiate(OmegaConf.load(conf_dir() / "features" / "inception.yaml"), path=str(inception_file))
    assert (extractor.name, extractor.named("fd"), extractor.named("kid")) == ("inception", "fid", "kid")
    found = extractor(images)
    assert (found.shape, found.dtype) == ((1, extractor.num_features), torch.float32)
    theirs = fidelity.FeatureExtractorInceptionV3("theirs", ["2048"], feature_extractor_weights_path=inception_file)
    assert torch.equal(found, theirs(images)[0])
    assert not any(p.requires_grad for p in extractor.parameters())
    assert extractor.named("coverage") == "coverage_inception"


class Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("content", ["missing", "truncated", "foreign", "code"])
def test_unusable_inception_weights_give_a_one_line_error_with_a_remedy(
    content: str, inception_file: Path, offline: Path, monkeypatch
) -> None:
    offline.parent.mkdir(parents=True)
    monkeypatch.chdir(offline.parent)
    if content == "truncated":
        offline.write_bytes(inception_file.read_bytes()[:1_000_000])
    elif content != "missing":
        torch.save({"weight": torch.ones(3)} if content == "foreign" else Bomb(), offline)
    before = os.listdir()
    with pytest.raises(UserError) as caught:
        Inception()
    line = str(caught.value)
    assert "\n" not in line
    assert str(offline) in line
    assert fidelity.URL_INCEPTION_V3 in line
    assert os.listdir() == before  # no code was run, and nothing is left of a download


def test_lite0_classifies_a_photograph_correctly(lite0: Lite0) -> None:
    """By ImageNet classes: these are the real weights, and the input is scaled and resized as they expect."""
    found = torch.cat([lite0(photograph("mont-saint-michel", side)) for side in (320, 224, 96)])
    assert found.shape == (3, 1280)
    assert found.dtype == torch.float32
    classes = lite0.net._fc(found).argmax(dim=1).tolist()
    assert set(classes) <= {483, 663, 976}  # castle, monastery, promontory


def test_features_are_computed_with_exact_products_in_any_run(lite0: Lite0, monkeypatch) -> None:
    features, seen = Lite0.features, []

    def noted(self: Lite0, images: Tensor) -> Tensor:
        seen.append([each.fp32_precision for each in SETTINGS])
        return features(self, images)

    monkeypatch.setattr(Lite0, "features", noted)
    before = torch.get_float32_matmul_precision()
    set_precision("medium")
    lite0(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert seen == [["ieee"] * 4]
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("medium", True)
    set_precision(before)
