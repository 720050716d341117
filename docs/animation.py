"""Make docs/demo.webp: images of the bundled model from noise to 32×32 pixels, then enlarged by `super` to 64×64.

    python -m docs.animation

The first 16 images of seed 0, each as x_t divided by √(α² + σ²), which keeps its contrast.
"""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import diffusion
from diffusion.base.pixels import grid
from diffusion.data import to_uint8
from diffusion.library.cascade import enlargement, enlarging
from diffusion.library.opening import settings_of

N, COLUMNS, SIDE = 16, 8, 128
HOLD, FRAME = 2500, 90  # milliseconds of the results, and of a step


def frames(model: Any, drawing: Any) -> tuple[Tensor, list[Tensor]]:
    """The images, uint8 (N, C, H, W), and the steps before them."""
    steps, schedule = list[Tensor](), model.denoiser.schedule
    times = drawing.sampler.grid(schedule.on_cpu(), drawing.sampler.steps)
    sizes = torch.stack(schedule.on_cpu()(times)).square().sum(dim=0).sqrt()

    def after_step(_: int, k: int, x: Tensor, __: Any) -> None:
        steps.append(to_uint8(x / sizes[k].to(x)))

    images = drawing(model.denoiser, N, torch.device("cpu"), N, "drawing", after_step)
    return images, steps


def picture(images: Tensor) -> Image.Image:
    """N images as a picture; small ones with large pixels."""
    factor = SIDE // images.shape[2]
    return grid(images.repeat_interleave(factor, 2).repeat_interleave(factor, 3), COLUMNS)


def main() -> None:
    demo, larger = diffusion.load("demo", device="cpu"), diffusion.load("super", device="cpu")
    images, first = frames(demo, demo.drawing())
    asked = settings_of("sample", ["ckpt=demo", "then=super"])
    ((_, _, drawing),) = enlarging(asked, [], demo, seed=0)
    enlarged, second = frames(larger, enlargement(drawing, images))
    first, second = first[5:-1], second[len(second) // 2 : -1]
    made = [picture(each) for each in (*first, images, *second, enlarged)]
    times = [*[FRAME] * len(first), HOLD // 2, *[FRAME] * len(second), HOLD]
    file = Path(__file__).with_name("demo.webp")
    made[0].save(file, save_all=True, append_images=made[1:], duration=times, loop=0, quality=60, method=6)


if __name__ == "__main__":
    main()
