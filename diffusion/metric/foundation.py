"""Feature extractors whose weights the user fetches: DINOv2 and CLIP, out of a folder or by name on the hub.

They are read by the package transformers (the extra `features`), from a folder in the format of `save_pretrained`, else
from its local cache, else from the hub.
"""

import hashlib
import logging
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.metric.features import FeatureExtractor, FeaturesUnavailable

log = logging.getLogger(__name__)


def pretrained(kind: str, source: str) -> Any:
    """The model of class `kind` of transformers that is at `source`: a folder, or a name on the hub.

    Raises FeaturesUnavailable where the package or the weights aren't there, where the weights are another model's
    (which transformers would fill up with random ones), and where those from the hub are not what was published.
    """
    try:
        import transformers
    except ImportError as error:
        raise FeaturesUnavailable(
            f"features of {source}: the package transformers is not installed ({error}); "
            "pip install 'diffusion-experiments[features]', or use features=lite0"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each of its attempts
    transformers.utils.logging.disable_progress_bar()  # of reading, not of fetching
    load = getattr(transformers, kind).from_pretrained
    mend = "name a folder with a copy by features.source=FOLDER, or use features=lite0"
    try:
        try:
            net, told = load(source, local_files_only=True, output_loading_info=True)
        except OSError:
            if Path(source).exists():
                raise
            log.warning("%s is neither a folder nor in the local cache: asking the hub for it", source)
            transformers.utils.logging.enable_progress_bar()
            net, told = load(source, output_loading_info=True)
    except Exception as error:  # absent, damaged and foreign files fail in many ways, in messages of many lines
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FeaturesUnavailable(f"features of {source}: not a usable {kind} ({reason}); {mend}") from error
    lacking = [*told["missing_keys"], *(str(key) for key in told["mismatched_keys"])]
    if lacking:
        raise FeaturesUnavailable(
            f"features of {source}: not a usable {kind} ({len(lacking)} of its weights are missing); {mend}"
        )
    if not Path(source).exists() and (damaged := damaged_in_cache(source)) is not None:
        raise FeaturesUnavailable(
            f"features of {source}: {damaged} does not have the SHA-256 that the hub gave for it, which is its name; "
            f"remove it, so that it is fetched again; or {mend}"
        )
    return net


def damaged_in_cache(source: str) -> Path | None:
    """A file of weights of `source` in the hub's local cache whose SHA-256 is not what the hub gave; None if all are.

    The cache keeps what is large under its SHA-256 as a name, and does not look at it again.
    """
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(source, name)
        if not isinstance(found, str):
            continue
        kept = Path(found).resolve()
        with kept.open("rb") as file:
            if len(kept.name) == 64 and hashlib.file_digest(file, "sha256").hexdigest() != kept.name:
                return kept
    return None


class Foundation(FeatureExtractor):
    """Base class: images are resized as Pillow does (bicubic, antialiased, rounded to uint8) and standardised."""

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def resized(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, side, side), of mean 0 and variance 1 on the training images."""
        size = (self.side, self.side)
        x = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True).clamp(0, 255).round() / 255
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (self.mean, self.std))
        return (x - mean) / std


class DINOv2(Foundation):
    """DINOv2 (Oquab et al. 2023, arXiv:2304.07193), whose Fréchet distance is FD-DINOv2 (Stein et al. 2023).

    (arXiv:2306.04675.) The features are the class token after the last normalisation, of images at 224×224. The name
    `fd_dinov2` belongs to the paper's ViT-L/14, `facebook/dinov2-large`; others' numbers are named after them.
    """

    resize = "224x224 bicubic, antialiased, rounded"
    side = 224
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, source: str = "facebook/dinov2-large"):
        """`source`: a name on the hub, or a folder."""
        super().__init__()
        self.name = Path(source).name
        self.net = pretrained("Dinov2Model", source)
        self.num_features = self.net.config.hidden_size
        if source == "facebook/dinov2-large" and not Path(source).exists():
            self.canonical = MappingProxyType({"fd": "fd_dinov2", "fd_infinity": "fd_dinov2_infinity"})
        self.freeze()  # hashed as published
        self._fit_positions(self.net.embeddings)

    def _fit_positions(self, embeddings: Any) -> None:
        """The positions for 16×16 patches, out of those for 37×37, as DINOv2's own code has them.

        It scales by (16 + 0.1)/37, not by 16/37: made against a rounding error, and published features depend on it.
        """
        place = embeddings.position_embeddings.data
        rows, patches = round((place.shape[1] - 1) ** 0.5), self.side // embeddings.patch_size
        if rows == patches:
            return
        plane = place[:, 1:].reshape(1, rows, rows, -1).permute(0, 3, 1, 2)
        scale = (patches + 0.1) / rows
        plane = F.interpolate(plane, scale_factor=(scale, scale), mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)
        embeddings.position_embeddings = nn.Parameter(torch.cat([place[:, :1], plane], dim=1), requires_grad=False)

    def features(self, images: Tensor) -> Tensor:
        """The class token."""
        return self.net(pixel_values=self.resized(images)).pooler_output


class CLIP(Foundation):
    """CLIP's image encoder (Radford et al. 2021, arXiv:2103.00020), with which CMMD is defined.

    The features are unit vectors in the space that images and texts share, of the middle square of an image at the
    network's size. The name `cmmd` belongs to ViT-L/14 at 336×336, `openai/clip-vit-large-patch14-336` (Jayasumana et
    al. 2023, arXiv:2401.09603); others' numbers are named after them.
    """

    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, source: str = "openai/clip-vit-large-patch14-336"):
        """`source`: a name on the hub, or a folder."""
        super().__init__()
        self.name = Path(source).name
        self.net = pretrained("CLIPVisionModelWithProjection", source)
        self.num_features, self.side = self.net.config.projection_dim, self.net.config.image_size
        self.resize = f"middle square to {self.side}x{self.side} bicubic, antialiased, rounded"
        if source == "openai/clip-vit-large-patch14-336" and not Path(source).exists():
            self.canonical = MappingProxyType({"cmmd": "cmmd"})
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        """The image's embedding, of norm 1."""
        height, width = images.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = images[..., top : top + side, left : left + side]
        return F.normalize(self.net(pixel_values=self.resized(square)).image_embeds, dim=1)
