from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.data import Landscapes
from diffusion.metric.features import FeatureExtractor


class Projection(FeatureExtractor):
    """A frozen random projection of an 8×8 thumbnail, which takes a millisecond."""

    def __init__(self, name: str = "projection", num_features: int = 24, resize: str = "8x8 mean", seed: int = 0):
        super().__init__()
        self.name, self.num_features, self.resize = name, num_features, resize
        weight = torch.randn(192, num_features, generator=torch.Generator().manual_seed(seed))
        self.weight = torch.nn.Parameter(weight / 192**0.5)
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images / 255, 8).flatten(1) @ self.weight


@pytest.fixture(scope="session")
def landscapes() -> Landscapes:
    data = Landscapes(resolution=16)
    data.setup()
    return data


@pytest.fixture
def projection() -> type[Projection]:
    return Projection


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the cached features of real images."""
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def photographs() -> Tensor:
    """600 different uint8 images of 32×32 pixels: smooth random fields."""
    coarse = torch.rand(600, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    return (F.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1) * 255).round().to(torch.uint8)
