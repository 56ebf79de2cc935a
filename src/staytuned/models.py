"""Base models by hub name: a local folder, an installed package that carries the weights, the hub."""

import hashlib
import importlib.metadata
import re
from pathlib import Path

from staytuned.errors import MissingError
from staytuned.files import sha256

WEIGHTS = "*.safetensors"
FILES = ["*.json", "*.txt", "*.model", WEIGHTS]  # what a base model is made of; never a pickle


def find_base(name: str, folders: list[Path]) -> Path:
    """Folder that holds the base model ``name``.

    Args:
        name: A hub name such as ``sentence-transformers/all-MiniLM-L6-v2``.
        folders: Local folders, looked in first, for ``name`` and for its last part.

    Raises:
        MissingError: it is nowhere to be found; names the places that were looked in.
    """
    last = name.rsplit("/", 1)[-1]
    places = [folder / part for folder in folders for part in dict.fromkeys((name, last))]
    for place in places:
        if _is_model(place):
            return place
    packages = _packages(last)
    for package in packages:
        found = _inside(package)
        if found:
            return found
    looked = [*map(str, places), *(f"package {package}" for package in packages)]
    return _from_hub(name, looked)


def fingerprint(folder: Path) -> str:
    """SHA-256 over the weights and the tokenizer of a model folder: what was used, whatever its name."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob(WEIGHTS), folder / "tokenizer.json", folder / "config.json"]):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob(WEIGHTS))


def _packages(last: str) -> list[str]:
    """Installed distributions whose name is the model's, or ends with it after a hyphen."""
    wanted = f"-{_plain(last)}"
    names = {dist.name for dist in importlib.metadata.distributions() if dist.name}
    return sorted(name for name in names if f"-{_plain(name)}".endswith(wanted))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def _inside(package: str) -> Path | None:
    for file in importlib.metadata.files(package) or []:
        if file.match(WEIGHTS):
            folder = Path(str(file.locate())).parent
            if _is_model(folder):
                return folder
    return None


def _from_hub(name: str, looked: list[str]) -> Path:
    from httpx import HTTPError
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except (OSError, ValueError, HTTPError) as error:  # they all mean: not to be had from there
        places = "\n".join(f"  {place}" for place in [*looked, "its local cache and the hub itself"])
        raise MissingError(
            f"base model {name!r} (model.base) was not found; looked in\n{places}\n"
            f"the hub said: {(str(error) or repr(error)).splitlines()[0]}\n"
            "put it into one of the folders, install a package that carries it, or go online once"
        ) from error
