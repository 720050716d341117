"""Export a model in a format that cannot contain code: by default, one safetensors file with its configuration.

`sample` and `evaluate` read it like a checkpoint (ckpt=FILE.safetensors); training cannot resume from it, but can start
from it (init=FILE.safetensors). With --format diffusers, write a folder that diffusers reads too:
DiffusionPipeline.from_pretrained(FOLDER); models with parts that diffusers lacks are refused. With --format web,
write one HTML file to give away that draws pictures in any browser, without a server: it has the network, samples,
charts and scores of its run (for friends, --pictures-only leaves these out), but no settings, commands or paths. With
--push USER/NAME, upload the safetensors file, the diffusers folder if there can be one, and a model card with the facts
of the run to the Hugging Face Hub; everyone can then use the model as ckpt=hf://USER/NAME.
"""

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion.errors import Arguments, UserError

if TYPE_CHECKING:
    from diffusion.checkpoint.restore import Restored

FORMATS = "safetensors", "diffusers", "web"


def export(
    checkpoint: str, file: Path | None, weights: str | float, format: str, sampler: str | None, push: str | None,
    private: bool, pictures_only: bool, config_dir: str | None,
) -> None:  # fmt: skip
    """Write what the command line asks for, and print its path."""
    from diffusion.checkpoint import find, restore
    from diffusion.config.choices import choice, searching
    from diffusion.doors import hub, zoo
    from diffusion.extras import formats

    if pictures_only and format != "web":
        raise UserError("--pictures-only: it is for a page; add --format web")
    with searching([config_dir]):
        model = restore.restore(find.trained(checkpoint), weights)
        if sampler:
            model.config["sampler"] = choice("sampler", sampler)
        if push:
            published(push, private, model)
            return
    place = Path(checkpoint) if model.path.is_relative_to(find.BUNDLED) else model.path
    for its in (hub, zoo):
        place = Path(re.split("[/:]", checkpoint)[-1].partition("@")[0]) if its.is_address(checkpoint) else place
    suffix, write = formats.FORMATS[format]
    write = partial(formats.write_page, pictures_only=True) if pictures_only else write
    file = file or place.with_name(place.stem + suffix)
    if file.is_file() and b"diffusion-experiments" not in file.read_bytes()[: 1 << 20]:
        raise UserError(f"{file}: a file that diffusion has not written; choose another name")
    print(write(file, model))


def published(name: str, private: bool, model: "Restored") -> None:
    """Upload a model with all that belongs to it, and print its address. Nothing is uploaded if a part fails."""
    from dataclasses import replace
    from shutil import copy
    from tempfile import TemporaryDirectory

    from diffusion.base.pixels import save_png
    from diffusion.checkpoint import find, storage
    from diffusion.doors import diffusers_folder, hub
    from diffusion.extras import card
    from diffusion.library import Model
    from diffusion.sampling.parallel import choose_device

    there = hub.claimed(name, private)
    with TemporaryDirectory() as temporary:
        folder, public, how = Path(temporary) / "model", replace(model, config=card.homeless(model.config)), None
        try:
            how = diffusers_folder.write(folder, public).replace(str(folder), name)
        except UserError as error:
            print(f"without a diffusers folder: {error}")
            folder.mkdir()
        storage.export(folder / hub.FILE, model.denoiser.network.state_dict(), public.about)
        step = model.facts.guidance_step
        if step and (early := find.kept(model.path.parent, step)) and early.suffix == storage.SUFFIX:
            (folder / "early").mkdir()
            copy(early, folder / "early")
        if (samples := find.run_folder(model.path) / "samples/final.png").is_file():
            copy(samples, folder / card.SAMPLES)
        else:
            model.denoiser.to(device := choose_device("auto"))
            picture = model.kind.grid(Model(model, device).sample(16), columns=4, large=True)
            save_png(picture, folder / card.SAMPLES)
        card.write_card(folder, hub.SCHEME + name, public, how)
        print(hub.upload(name, folder, there))
    print(f"  diffusion sample ckpt={hub.SCHEME}{name}")


main = Arguments("export", __doc__, export)
main.add_model()
main.add_argument("file", type=Path, nargs="?", help="default: the checkpoint's name with the format's suffix")
main.add_argument("--format", choices=FORMATS, default="safetensors", help="default: safetensors")
main.add_argument("--sampler", metavar="CHOICE", help="instead of the run's, such as 'ddim sampler.steps=20'")
main.add_argument("--push", metavar="USER/NAME", help="upload all this to the Hub, as a new commit")
main.add_argument("--private", action="store_true", help="with --push: only you can see a new repository")
main.add_argument("--pictures-only", action="store_true", help="with --format web: without charts and scores")
main.add_config_dir()
