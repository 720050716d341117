"""Feature extractors with weights published on the Hugging Face Hub: DINOv2 and CLIP.

The package transformers (the extra `features`) loads them from a folder written by `save_pretrained`, from its local
cache, or from the Hub.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from diffusion.errors import pip_install, refusing
from diffusion.metric.features import FeatureExtractor


class Foundation(FeatureExtractor):
    """Base class: images are resized nearly as by Pillow (bicubic, antialiased, rounded to uint8), and standardised.

    Args:
        source: A name on the Hub, or a folder with a copy.
    """

    kind: str  # the name of a class in transformers
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __init__(self, source: str):
        super().__init__()
        self.name = Path(source).name
        advice = f"; {pip_install('features')}, set features.source=FOLDER to a copy, or use features=lite0"
        with refusing(f"features of {source}", advice):  # missing or damaged files raise many kinds of exceptions
            import transformers

            transformers.utils.logging.set_verbosity_error()
            self.net, loaded = getattr(transformers, self.kind).from_pretrained(source, output_loading_info=True)
            if missing := len(loaded["missing_keys"]) + len(loaded["mismatched_keys"]):  # drawn at random
                raise ValueError(f"{missing} of its weights are missing")
        self.freeze()

    def resized(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, side, side), with mean 0 and variance 1 over the training images."""
        size = (self.side, self.side)
        x = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True).clamp(0, 255).round() / 255
        return normalize(x, self.mean, self.std)


class DINOv2(Foundation):
    """DINOv2 (Oquab et al. 2023, arXiv:2304.07193), for FD-DINOv2 (Stein et al. 2023, arXiv:2306.04675).

    The features are the class token after the final layer norm, for images at 224×224. The name `fd_dinov2` is reserved
    for the paper's ViT-L/14, `facebook/dinov2-large`; the names of other scores include the network's name.

    The position embeddings are interpolated from 37×37 to 16×16 patches with the scale (16 + 0.1)/37, as in DINOv2's
    code, which avoids a rounding error; published features depend on it.
    """

    kind = "Dinov2Model"
    resize = "224x224 bicubic, antialiased, rounded"
    side = 224
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, source: str = "facebook/dinov2-large"):
        super().__init__(source)
        self.num_features = self.net.config.hidden_size
        self.canonical = {"fd": "fd_dinov2"} if source == "facebook/dinov2-large" else {}
        place, plane = self.net.embeddings.position_embeddings.data.tensor_split([1], dim=1)
        rows, patches = round(plane.shape[1] ** 0.5), self.side // self.net.embeddings.patch_size
        if rows != patches:  # after the weights were hashed
            scale = (patches + 0.1) / rows
            plane = plane.reshape(1, rows, rows, -1).permute(0, 3, 1, 2)
            plane = F.interpolate(plane, scale_factor=(scale, scale), mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)
            place = nn.Parameter(torch.cat([place, plane], dim=1), requires_grad=False)
            self.net.embeddings.position_embeddings = place

    def features(self, images: Tensor) -> Tensor:
        return self.net(pixel_values=self.resized(images)).pooler_output


class CLIP(Foundation):
    """CLIP's image encoder (Radford et al. 2021, arXiv:2103.00020), for CMMD (Jayasumana et al. 2023).

    The features are unit vectors in CLIP's joint space of images and texts, for the middle square of an image. The name
    `cmmd` is reserved for `openai/clip-vit-large-patch14-336`; the names of other scores include the network's name.
    """

    kind = "CLIPVisionModelWithProjection"
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, source: str = "openai/clip-vit-large-patch14-336"):
        super().__init__(source)
        self.canonical = {"cmmd": "cmmd"} if source == "openai/clip-vit-large-patch14-336" else {}
        self.num_features, self.side = self.net.config.projection_dim, self.net.config.image_size
        place = self.net.vision_model.embeddings  # once in many loads, transformers 5.24 left the indices unset
        place.position_ids = torch.arange(place.num_positions)[None]
        self.resize = f"middle square to {self.side}x{self.side} bicubic, antialiased, rounded"

    def features(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = images[..., top : top + side, left : left + side]
        return F.normalize(self.net(pixel_values=self.resized(square)).image_embeds, dim=1)
