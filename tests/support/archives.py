"""A folder of labelled images, and the same images in the archives of other tools."""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion.data import ImageData
from diffusion.data.folder import Collection


def pets(folder: Path, nested: str = "cat/old") -> Path:
    """Ten cats, half of them in a nested folder, and ten dogs."""
    for i in range(20):
        kind = "dog" if i % 2 else "cat" if i % 4 else nested
        (folder / kind).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 12, 3), np.uint8)
        Image.fromarray(pixels).save(folder / kind / f"{i}.png")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of each file by its name, relative to the folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.*"))}


def to_zip(files: Mapping[str, bytes], path: Path, labels: object = "folders") -> Path:
    """A zip as dataset_tool of EDM writes it."""
    if labels == "folders":
        labels = [[name, name.split("/")[0]] for name in files]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def to_shards(files: Mapping[str, bytes], folder: Path, shards: int = 3) -> str:
    """Tar files as webdataset writes them, with the names 0, 1, … in each; returns their pattern."""
    folder.mkdir(exist_ok=True)
    for k in range(shards):
        with tarfile.open(folder / f"part-{k:04d}.tar", "w") as tar:
            for i, (name, content) in enumerate([*files.items()][k::shards]):
                for ending, data in (("cls", name.split("/")[0].encode()), (name.split(".")[-1], content)):
                    member = tarfile.TarInfo(f"{i:06d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return f"{folder}/part-{{0000..{shards - 1:04d}}}.tar"


def loaded(kind: type[Collection], place: object, **options: object) -> ImageData:
    """The data set at data.path=PLACE, or data.root=PLACE."""
    where = "root" if kind.__name__ == "Folder" else "path"
    data = kind(**{where: str(place), "resolution": 8, "batch_size": 2, "val": 3, "test": 2, **options})
    data.setup()
    return data
