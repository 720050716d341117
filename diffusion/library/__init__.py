"""What the package offers to programs: `Model`, `load` and `score`. The commands are built on the same parts."""

from diffusion.library.model import Model, Scores, load, score

__all__ = ["Model", "Scores", "load", "score"]
