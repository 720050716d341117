"""The formats in which a model is exported. None of them can contain code."""

from pathlib import Path

from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import Restored
from diffusion.doors import diffusers_folder


def write_safetensors(file: Path, model: Restored) -> str:
    """One file with the weights and their configuration, which every command reads like a checkpoint."""
    return str(storage.export(file, model.denoiser.network.state_dict(), model.about))


def write_diffusers(folder: Path, model: Restored) -> str:
    """A folder that diffusers reads, too."""
    return f"{folder}\n  {diffusers_folder.write(folder, model)}{unguided(model)}"


def write_page(file: Path, model: Restored, pictures_only: bool = False) -> str:
    """A page that draws in any browser; with `pictures_only`, without charts and scores."""
    from diffusion.extras.web import write_web  # imports the reports

    return f"{write_web(file, model, pictures_only)}{unguided(model)}"


def unguided(model: Restored) -> str:
    return "\n  it draws without the run's guidance" if model.config.get("guidance") else ""


FORMATS = {  # the end of a file's name; what writes the file, and returns its path and what to know of it
    "safetensors": (".safetensors", write_safetensors),
    "diffusers": ("-diffusers", write_diffusers),
    "web": (".html", write_page),
}
