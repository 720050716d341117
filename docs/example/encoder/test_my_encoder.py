import torch
from my_encoder import MyEncoder

from diffusion.kinds.latents import Latents


def test_images_survive_encoding_and_decoding():
    images = torch.randint(256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    encoder = MyEncoder(2)
    latents = Latents(encoder, (3, 8, 8), {"key": encoder.key, "mean": [0.1] * 12, "deviation": [0.6] * 12})
    assert latents.space((3, 8, 8)) == (12, 4, 4)
    assert torch.equal(latents.outside(latents.inside(images)), images)
