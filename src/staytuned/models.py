"""Base models by hub name: a local folder, an installed package that carries the weights, the hub.

Weights are safetensors, or one GGUF file, which is unpacked into safetensors once, into the user's cache.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staytuned.errors import DataError, MissingError, ParamsError
from staytuned.files import read_json, sha256

if TYPE_CHECKING:
    from staytuned.params import Params
    from staytuned.workspace import Workspace

WEIGHTS = "*.safetensors"
FILES = ["*.json", "*.txt", "*.model", "*.jinja", WEIGHTS]  # what a base model is made of; never a pickle
FITTING = {  # by class of transformers: what it is, one that fits, how the classes of such weights end
    "AutoModel": ("an encoder", "sentence-transformers/all-MiniLM-L6-v2", ""),
    "AutoModelForCausalLM": ("a decoder", "HuggingFaceTB/SmolLM2-135M-Instruct", "ForCausalLM|LMHeadModel"),
    "AutoModelForMaskedLM": (
        "a masked language model",
        "distilbert/distilbert-base-uncased",
        "ForMaskedLM|PreTraining",
    ),
    "AutoModelForSeq2SeqLM": ("an encoder-decoder", "google-t5/t5-small", "ForConditionalGeneration|MTModel"),
}


def base_of(workspace: "Workspace", params: "Params") -> Path:
    """Folder of the base model that a workspace's params name.

    Raises:
        MissingError: it is nowhere to be found.
    """
    return find_base(params.model.base, [workspace.root / folder for folder in params.model.folders])


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
        packed = sorted(place.glob("*.gguf"))
        if len(packed) == 1:
            return unpacked(packed[0])
    packages = _packages(last)
    for package in packages:
        found = _inside(package)
        if found:
            return found
    for file in _packaged_gguf():
        if f"{_plain(file.stem)}-".startswith(f"{_plain(last)}-"):  # what follows the name is how it is packed
            return unpacked(file)
    looked = [*map(str, places), *(f"package {package}" for package in packages)]
    return _from_hub(name, looked)


def fingerprint(folder: Path) -> str:
    """SHA-256 over the weights and the tokenizer of a model folder: what was used, whatever its name."""
    digest = hashlib.sha256()
    chats = ("chat_template.jinja", "tokenizer_config.json")  # how turns are written down
    there = [*folder.glob(WEIGHTS), *(folder / name for name in chats if (folder / name).exists())]
    for path in sorted([*there, folder / "tokenizer.json", folder / "config.json"]):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def check_fits(base: Path, kind: str, task: str, kinds: dict[str, str]) -> None:
    """Refuse a base model whose weights are of another kind than a task needs.

    Args:
        base: Its folder.
        kind: The class of transformers that the task loads it by; of one that is not known here nothing is said.
        task: The task's name.
        kinds: By which classes it can load one, and what to set for it, as ``task.model to 'decoder'``.

    Raises:
        ParamsError: says what the model is, and what would fit.
    """
    if kind not in FITTING:
        return
    config = read_json(base / "config.json")
    made = (config.get("architectures") or ["?"])[0]
    if not _fits(config, made, kind):
        wanted, example, _ = FITTING[kind]
        cure = next((f"set {option}" for other, option in kinds.items() if _fits(config, made, other)), "")
        others = [words for words, _, ends in FITTING.values() if ends and re.search(f"({ends})$", made)]
        also = f", {others[0]}" if others else ""
        raise ParamsError(
            f"model.base: {base} holds a {made} of type {config.get('model_type')!r}{also}, but task.name "
            f"{task!r} needs {wanted}, such as {example}; {cure or 'change one of the two'}"
        )


def _fits(config: dict[str, Any], made: str, kind: str) -> bool:
    """Whether a model of a class ``made`` can be loaded by ``kind``."""
    if bool(config.get("is_encoder_decoder")) != (kind == "AutoModelForSeq2SeqLM"):
        return False
    return made == "?" or re.search(f"({FITTING[kind][2]})$", made) is not None


def unpacked(file: Path) -> Path:
    """The model of a GGUF file as a folder of safetensors, config.json and tokenizer.json, in the user's cache.

    Packed weights become float32, exactly. The folder is made once, whole or not at all.

    Raises:
        MissingError: the package ``gguf`` is not installed.
        DataError: the file is cut short, or holds a model of a kind that transformers does not unpack.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "staytuned" / "base-models"
    folder = cache / f"{file.stem}-{sha256(file)[:16]}"
    if _is_model(folder):
        return folder
    if not importlib.util.find_spec("gguf"):
        raise MissingError(f"{file} is a GGUF file, and the package gguf, which reads it, is not installed")
    cache.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=cache))
    try:
        try:
            _unpack(file, temporary)
        except (ValueError, LookupError, struct.error) as error:
            raise DataError(f"{file} could not be unpacked: {error}; is it whole, and a decoder's?") from error
        try:
            temporary.rename(folder)
        except OSError:  # another process was faster
            if not _is_model(folder):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _unpack(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    here = {"gguf_file": file.name, "local_files_only": True}
    dense = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(file.parent, **here, quantization_config=dense, dtype=torch.float32)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **here).save_pretrained(folder)


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob(WEIGHTS))


def _packages(last: str) -> list[str]:
    """Installed distributions whose name is the model's, or ends with it after a hyphen."""
    wanted = f"-{_plain(last)}"
    # a folder is named after its distribution: to read what each of hundreds says of itself takes half a second
    folders = (folder for place in sys.path for folder in Path(place).glob("*.dist-info"))
    names = {_plain(folder.name.split("-")[0]) for folder in folders}
    return sorted(name for name in names if f"-{name}".endswith(wanted))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def _inside(package: str) -> Path | None:
    for file in importlib.metadata.files(package) or []:
        if file.match(WEIGHTS):
            folder = Path(str(file.locate())).parent
            if _is_model(folder):
                return folder
    return None


def _packaged_gguf() -> Iterable[Path]:
    """GGUF files that installed packages carry."""
    for dist in importlib.metadata.distributions():
        if ".gguf," in (dist.read_text("RECORD") or ""):
            yield from sorted(Path(str(file.locate())) for file in dist.files or [] if file.suffix == ".gguf")


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
