import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from diffusion.config.choices import conf_dir
from diffusion.errors import UserError
from diffusion.metric.foundation import CLIP, DINOv2


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="the extra `features` is not installed")


@pytest.fixture(scope="module")
def saved(transformers, tmp_path_factory) -> Callable[..., Path]:
    """A folder with a tiny random model in the format of the real models."""

    def save(kind: str, name: str, **kwargs) -> Path:
        torch.manual_seed(0)
        small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, **kwargs}
        configs = {
            "Dinov2Model": transformers.Dinov2Config(image_size=518, patch_size=14, **small),
            "CLIPVisionModelWithProjection": transformers.CLIPVisionConfig(
                image_size=48, patch_size=16, intermediate_size=32, projection_dim=12, **small
            ),
        }
        folder = tmp_path_factory.mktemp("models") / name
        getattr(transformers, kind)(configs[kind]).eval().save_pretrained(folder)
        return folder

    return save


def standardised(images: Tensor, mean: tuple, std: tuple) -> Tensor:
    return (images.permute(0, 2, 3, 1) / 255 - torch.tensor(mean)).div(torch.tensor(std)).permute(0, 3, 1, 2)


def test_dinov2_features_are_the_class_token_as_in_the_paper(transformers, saved) -> None:
    folder = saved("Dinov2Model", "dinov2-tiny")
    extractor = instantiate(OmegaConf.load(conf_dir() / "features" / "dinov2.yaml"), source=str(folder))
    images = torch.randint(0, 256, (5, 3, 224, 224), dtype=torch.uint8)
    found = extractor(images)
    assert (found.shape, found.dtype, extractor.num_features) == ((5, 16), torch.float32, 16)
    net = transformers.Dinov2Model.from_pretrained(folder)
    # As in facebookresearch/dinov2: the grid of positions is scaled with an offset of a tenth of a patch.
    place = net.embeddings.position_embeddings.data
    grid = place[0, 1:].reshape(37, 37, 16).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, mode="bicubic", scale_factor=(16.1 / 37, 16.1 / 37))
    assert grid.shape[-2:] == (16, 16)
    net.embeddings.position_embeddings.data = torch.cat([place[:, :1], grid[0].flatten(1).T[None]], dim=1)
    x = standardised(images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        expected = net(pixel_values=x).last_hidden_state[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (extractor.named("fd"), extractor.named("cmmd")) == ("fd_dinov2-tiny", "cmmd_dinov2-tiny")
    assert not any(p.requires_grad for p in extractor.parameters())


def test_clip_features_are_unit_vectors_of_the_centre_crop(transformers, saved) -> None:
    folder = saved("CLIPVisionModelWithProjection", "clip-tiny")
    extractor = instantiate(OmegaConf.load(conf_dir() / "features" / "clip.yaml"), source=str(folder))
    images = torch.randint(0, 256, (5, 3, 48, 48), dtype=torch.uint8)
    found = extractor(F.pad(images, (7, 7)))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
    net = transformers.CLIPVisionModelWithProjection.from_pretrained(folder)
    net.vision_model.embeddings.position_ids = torch.arange(10)[None]  # as in `CLIP`: a load in many leaves them unset
    x = standardised(images, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    with torch.no_grad():
        expected = F.normalize(net(pixel_values=x).image_embeds, dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert extractor.named("cmmd") == "cmmd_clip-tiny"  # only the paper's network has the name cmmd


@pytest.mark.parametrize("extractor", [DINOv2, CLIP])
def test_missing_weights_or_packages_give_a_one_line_error(
    extractor, transformers, saved, tmp_path, monkeypatch
) -> None:
    other = "CLIPVisionModelWithProjection" if extractor is DINOv2 else "Dinov2Model"
    folder = saved(other, "another")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for source in (folder, tmp_path / "empty", "nobody/nothing"):  # never completed with random weights
        with pytest.raises(UserError):
            extractor(str(source))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError):
        extractor()
