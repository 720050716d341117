"""A Lightning + Hydra laboratory for denoising diffusion models on images.

    import diffusion

    model = diffusion.load("outputs/demo/…")          # a run, a checkpoint or an exported file
    images = model.sample(64, sampler="heun", steps=18, seed=0)
    scores = diffusion.score(images, reference="landscapes", split="val")

To train a network of your own, give each step of the loop random streams of its own:

    from diffusion.process.denoiser import Denoiser
    from diffusion.process.objective import Simple
    from diffusion.process.prediction import V
    from diffusion.process.schedule import cosine
    from diffusion.randomness import Streams

    denoiser, objective = Denoiser(network, cosine(), V()), Simple()
    for step, x0 in enumerate(batches):               # (B, C, H, W) in [−1, 1]
        loss = objective(denoiser, x0, Streams.of(len(x0), "train", step))["loss"].mean()
        …

The commands are `python -m diffusion.COMMAND` for train, sample, edit, studio, evaluate, study, compare, report,
status, prune and export, each with --help. docs/architecture.md says what is where.
"""

import os
from typing import TYPE_CHECKING, Any

from diffusion.files import VERSION as __version__

if TYPE_CHECKING:
    from diffusion.library import Model, load, score

__all__ = ["Model", "__version__", "load", "score"]

# Torch reads these when it is imported. What Apple's MPS lacks, such as the normal distribution's quantile, is computed
# on the CPU:
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
# A thread of OpenMP that waits for another one keeps its core for some microseconds, not for the milliseconds of
# libgomp's own 300,000 turns: beside other work, that core is what the other one waits for (bench/busy.py). How many
# threads there are is left as it is, since a number of threads has its own rounding, and a resumed run its own bits.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")


def __getattr__(name: str) -> Any:
    """Import torch and what follows only for those who need it."""
    if name not in __all__:
        raise AttributeError(f"module 'diffusion' has no attribute {name!r}")
    from diffusion import library

    return getattr(library, name)
