"""Models of the zoo, `zoo:NAME`: each is a file that the project publishes with its releases (docs/results/zoo)."""

import json
import os
from http.client import HTTPException
from pathlib import Path

import torch.hub

from diffusion.base.files import PACKAGE, cache_dir
from diffusion.errors import UserError, first_line, nearest

SCHEME = "zoo:"
RELEASE = "https://github.com/diffusion-experiments/diffusion/releases/download/zoo-1"
CHECKSUMS: dict[str, str] = json.loads((PACKAGE / "pretrained/zoo.json").read_text("utf-8"))  # name -> SHA-256


def is_address(ckpt: object) -> bool:
    return str(ckpt).startswith(SCHEME)


def fetched(address: str) -> Path:
    """The file of a model, from the cache, or from RELEASE, or the address or folder `$DIFFUSION_ZOO`.

    Raises UserError for an unknown name, without network, and if the file has another checksum.
    """
    name = address.removeprefix(SCHEME)
    if name not in CHECKSUMS:
        known = f"{', '.join(CHECKSUMS)}{nearest(name, CHECKSUMS)}; demo and super come with the program: ckpt=super"
        raise UserError(f"{address}: no such model; the zoo has {known}", key="ckpt")
    file = cache_dir("zoo", CHECKSUMS[name][:16]) / f"{name}.safetensors"
    if not file.is_file():
        place = os.environ.get("DIFFUSION_ZOO") or RELEASE
        url = f"{Path(place).resolve().as_uri() if Path(place).is_dir() else place}/{file.name}"
        try:
            torch.hub.download_url_to_file(url, str(file), CHECKSUMS[name])
        except RuntimeError as error:
            line = f"{address}: {url} is damaged, or belongs to another version; try again"
            raise UserError(line, key="ckpt") from error
        except (OSError, HTTPException, ValueError) as error:
            raise UserError(
                f"{address}: {url} cannot be fetched ({first_line(error)}); check the network, or set DIFFUSION_ZOO to "
                "another address or a folder",
                key="ckpt",
            ) from error
    return file
