"""Python API for notebooks and programs: `diffusion.load` (trained models) and `diffusion.score` (scores of images)."""

from diffusion.library.model import Model, load
from diffusion.library.scoring import score

__all__ = ["Model", "load", "score"]
