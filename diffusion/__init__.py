"""A Lightning + Hydra laboratory for denoising diffusion models on images.

    import diffusion

    model = diffusion.load("outputs/demo/…")          # a run, a checkpoint or an exported file
    images = model.sample(64, sampler="heun", steps=18, seed=0)
    scores = diffusion.score(images, reference="landscapes", split="val")

To train your own network in your own loop, create new random streams for each step:

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
watch, status, prune, export and reproduce, each with --help. docs/architecture.md describes the layout of the code.
"""

import ctypes
import os
import sys
from typing import TYPE_CHECKING, Any

from diffusion.files import VERSION as __version__

if TYPE_CHECKING:
    from diffusion.library import Model, load, score

__all__ = ["Model", "__version__", "load", "score"]

# These variables must be set before torch is imported. Operations that Apple's MPS lacks, such as the quantile function
# of the normal distribution, run on the CPU:
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
# A waiting OpenMP thread spins on its core for microseconds, not for the milliseconds of libgomp's default 300,000
# turns: on a busy machine, the thread it waits for may need that very core (bench/busy.py). The number of threads stays
# unchanged because it affects rounding, and a resumed run must reproduce the same bits.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")


def _keep_freed_memory() -> None:
    """Let the C library reuse freed memory (glibc; elsewhere, nothing happens).

    By default it returns large blocks to the system, which must fill each page with zeros when it hands it out again.
    On a CPU this takes up to a tenth of a training step, and two fifths of an evaluation of many images
    (bench/memory.py). Memory remains reserved until the process ends. Settings in the environment take precedence.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ) or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # not musl
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in malloc.h
        if mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25):  # old versions allow at most 32 MB
            mallopt(trim_threshold, -1)


_keep_freed_memory()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import torch and the rest of the library only on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'diffusion' has no attribute {name!r}")
    from diffusion import library

    return getattr(library, name)
