"""Models on the Hugging Face Hub: `hf://USER/NAME`, or `hf://USER/NAME@REVISION`, a branch, a tag or a commit.

A repository of ours holds model.safetensors, as `diffusion export` writes it, and early/*.safetensors if the run is
guided by early weights; if diffusers has a counterpart of the model, also its folder. Other repositories can be read if
they are such folders. Downloads are kept in the cache of huggingface_hub, which also finds the token.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusion.doors import diffusers_folder
from diffusion.errors import UserError, first_line, imported

SCHEME, FILE, TAG = "hf://", "model.safetensors", "diffusion-experiments"
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
REASONS = {  # of the exceptions of huggingface_hub; the first that fits applies
    "GatedRepoError": f"its owner must grant access first: ask for it on its page, and {LOGIN}",
    "RepositoryNotFoundError": f"there is no such model, or it is private; check the name, or {LOGIN}",
    "RevisionNotFoundError": "it has no such revision; name a branch, a tag or a commit",
    "LocalEntryNotFoundError": "the Hub cannot be reached, and the model is not in the cache; check the network",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set; unset it",
}
REFUSED = f"the Hub refuses the token or its rights; {LOGIN}, with a token that may write here if you push"


def library() -> Any:
    """The module `huggingface_hub`, without a log of its requests. Raises UserError if it is not installed."""
    huggingface_hub = imported("huggingface_hub", "the Hub", "diffusers")
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    return huggingface_hub


@contextmanager
def explained(what: str, key: str = "") -> Iterator[None]:
    """Context in which the errors of huggingface_hub become UserErrors about `what`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of the network, they are those of the package that huggingface_hub uses
        kinds = library().errors
        status = getattr(getattr(error, "response", None), "status_code", None)
        if fitting := [words for name, words in REASONS.items() if isinstance(error, getattr(kinds, name))]:
            reason = fitting[0]
        elif status is None:
            reason = f"the Hub cannot be reached ({first_line(error)}); check the network"
        else:
            reason = REFUSED if status in (401, 403) else f"the Hub answers: {first_line(error)}"
        raise UserError(f"{what}: {reason}", key=key) from error


def is_address(ckpt: object) -> bool:
    return str(ckpt).startswith(SCHEME)


def _named(name: str, what: str, key: str = "") -> str:
    """The name. Raises UserError if it is no name of a repository."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
        raise UserError(f"{what}: no name of a model on the Hub; expected USER/NAME", key=key)
    return name


def fetched(address: str) -> Path:
    """The exported file or the diffusers folder of a repository, downloaded unless it is in the cache.

    Raises UserError if the Hub does not give it, and before it is downloaded if it is no model that can be read here.
    """
    name, _, revision = address.removeprefix(SCHEME).partition("@")
    hub, given = library(), {"repo_id": _named(name, address, "ckpt"), "revision": revision or None}
    with explained(address, "ckpt"):
        if (file := Path(hub.snapshot_download(**given, allow_patterns=[FILE, "early/*"]), FILE)).is_file():
            return file
        try:
            diffusers_folder.check_index(Path(hub.hf_hub_download(**given, filename=diffusers_folder.INDEX)))
        except (hub.errors.EntryNotFoundError, ValueError) as error:
            raise UserError(
                f"{address}: not written by `diffusion export RUN --push USER/NAME`, and no diffusers folder that can "
                f"be read here ({first_line(error)}); choose another model",
                key="ckpt",
            ) from error
        return Path(hub.snapshot_download(**given, allow_patterns=diffusers_folder.FILES))


def claimed(name: str, private: bool) -> list[str]:
    """Create the repository unless it exists; returns its files. Raises UserError if they are those of others."""
    hub = library()
    with explained(what := f"--push {name}"):
        if hub.get_token() is None:
            raise UserError(f"{what}: no token; {LOGIN}")
        api = hub.HfApi()
        api.create_repo(_named(name, what), private=private or None, exist_ok=True)
        info = api.model_info(name)
    there = [each.rfilename for each in info.siblings or [] if each.rfilename != ".gitattributes"]
    if there and TAG not in (info.tags or []):
        raise UserError(f"{what}: it holds {there[0]}, which diffusion has not written; choose another name")
    return there


def upload(name: str, folder: Path, there: list[str]) -> str:
    """Make the files of a folder those of the repository, which are now `there`, in one commit; returns its URL."""
    hub = library()
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    changes = [hub.CommitOperationDelete(old) for old in there if old not in files]
    changes += [hub.CommitOperationAdd(path, file) for path, file in files.items()]
    with explained(f"--push {name}"):
        return str(hub.HfApi().create_commit(name, changes, commit_message="diffusion export").commit_url)
