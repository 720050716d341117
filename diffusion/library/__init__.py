"""Trained models and scores for notebooks and programs, without a command line: `diffusion.load`, `diffusion.score`."""

from diffusion.library.model import Model, load
from diffusion.library.scoring import score

__all__ = ["Model", "load", "score"]
