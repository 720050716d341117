"""A Lightning + Hydra laboratory for denoising diffusion models on images.

    import diffusion

    model = diffusion.load("outputs/demo/…")          # a run, a checkpoint or an exported file
    images = model.sample(64, sampler="heun", steps=18, seed=0)
    scores = diffusion.score(images, reference="landscapes", split="val")

`diffusion` lists the commands, such as `diffusion train`; each has --help. docs/architecture.md describes the layout of
the code, and README.md how to train your own network in your own loop.
"""

import os
from typing import TYPE_CHECKING, Any

from diffusion.base.files import VERSION as __version__

if TYPE_CHECKING:
    from diffusion.library import Model, load, score

__all__ = ["Model", "__version__", "load", "score"]

# These variables must be set before torch is imported. Operations that Apple's MPS lacks, such as the quantile function
# of the normal distribution, run on the CPU:
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
# A waiting OpenMP thread spins on its core for microseconds, not for the milliseconds of libgomp's default: on a busy
# machine, the thread it waits for may need that very core. The number of threads stays unchanged because it affects
# rounding, and a resumed run must reproduce the same bits.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import torch and the rest of the library only on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'diffusion' has no attribute {name!r}")
    from diffusion import library

    return getattr(library, name)
