"""Checkpoints: a training that is cut off goes on from the last one, and comes out the same to the last bit.

One is two files: STEP.safetensors, the state, and STEP.json, which is written last and says what training the state is
of and what it hashes to. Each file is written under a temporary name, synced and renamed. They lie in the piece store:
they never change what a training says, only how long it takes.
"""

import hashlib
import json
import mmap
import os
import re
import shutil
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from staytuned.errors import DataError, StorageError, disk_full, from_os_error, is_full
from staytuned.files import read_json, replacing, write_json
from staytuned.sections import Checkpointing
from staytuned.training import ranks

Origin = dict[str, Any]  # what decides the bits of a training, by name
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)  # what a manifest that was altered may raise


class Checkpoints:
    """The last checkpoints of one training, in a folder of their own.

    Args:
        store: Folder of all checkpoints.
        origin: What decides the bits of this training.
        options: How often one is written, and how many are kept.
    """

    def __init__(self, store: Path, origin: Origin, options: Checkpointing) -> None:
        self.origin, self.options = origin, options
        self.folder = store / hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:16]
        self._writer = ThreadPoolExecutor(1, "checkpoint", initializer=_give_way)
        self._writing: Future[None] | None = None

    def latest(self) -> dict[str, Any] | None:
        """The newest state that is whole; None where there is none.

        Those that are not whole, and those of other trainings, are named and removed.

        Raises:
            DataError: a checkpoint here is of another training: its folder was moved or made by hand.
        """
        step = ranks.as_first_says(self._newest_whole() if ranks.is_first() else 0)
        return _read(self._file(step)) if step else None

    def _newest_whole(self) -> int:
        """Its step; 0 where there is none."""
        for other in set(self.folder.parent.glob("*")) - {self.folder}:
            print(f"removed {other}, checkpoints of another training: {_said_of(other, self.origin)}", file=sys.stderr)
            shutil.rmtree(other)
        for left in self.folder.glob(".*.tmp"):  # a process was killed as it wrote
            left.unlink()
        for file in sorted(self.folder.glob("*.safetensors"), reverse=True):
            fault = self._fault(file)
            if fault is None:
                print(f"training goes on from the checkpoint {file}", file=sys.stderr)
                return int(file.stem)
            print(f"refused the checkpoint {file}: {fault}", file=sys.stderr)
            _remove(file)
        return 0

    def _file(self, step: int) -> Path:
        return self.folder / f"{step:010}.safetensors"

    def _fault(self, file: Path) -> str | None:
        """Why a checkpoint cannot be used; None where it can."""
        if not re.fullmatch(r"\d{10}", file.stem):
            return "its name is not the number of a step"
        manifest = file.with_suffix(".json")
        try:
            about = read_json(manifest)
            other, hashed = differences(about["of"], self.origin), about["xxh3"]
        except FileNotFoundError:
            return "it has no manifest, so it was not written to its end"
        except UNREADABLE as error:
            return f"its manifest cannot be read: {error!r}"
        if other:
            raise DataError(
                f"the checkpoint {file} is of another training: {'; '.join(other)}; remove {self.folder} to train "
                "from the start"
            )
        found = _hash(file)
        return None if found == hashed else f"it hashes to {found}, not {hashed}, so it was cut or altered"

    def due(self, step: int) -> bool:
        """Whether this step is followed by a checkpoint; one that falls due while another is written is left out."""
        if step % self.options.every_steps:
            return False
        if self._writing and self._writing.done():
            self._writing = self._writing.result()
        return bool(ranks.as_first_says(self._writing is None))

    def write(self, step: int, state: dict[str, Any]) -> None:
        """Write a state that nothing changes any more, in the background."""
        if ranks.is_first():
            self._writing = self._writer.submit(self._write, self._file(step), state)

    def _write(self, file: Path, state: dict[str, Any]) -> None:
        """One that cannot be written is no reason to stop: the model itself may well find room in the end."""
        try:
            tensors: dict[str, torch.Tensor] = {}
            values = _parted(state, "", tensors)
            write_tensors(file, tensors, {"values": json.dumps(values)})
            write_json(file.with_suffix(".json"), {"of": self.origin, "xxh3": _hash(file)})
            for old in sorted(self.folder.glob("*.safetensors"))[: -self.options.keep]:
                _remove(old)
        except (StorageError, OSError) as error:
            known = from_os_error(error, file) if isinstance(error, OSError) else error
            print(f"without a new checkpoint training goes on: {known}", file=sys.stderr)

    def close(self) -> None:
        """Wait until nothing is being written."""
        self._writer.shutdown()

    def remove(self) -> None:
        """Once the training has ended and its model is written."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _give_way() -> None:
    """Let this thread, and no other of the process, have the processor mostly when training has no use for it."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + 10))


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a file of safetensors, whole or not at all.

    Raises:
        StorageError: there is no room.
    """
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # it wraps the system's own
            raise disk_full(path) if is_full(error) else StorageError(f"{path}: {error}") from error
        temporary.chmod(0o644)  # it is born readable by its owner alone


def _hash(path: Path) -> str:
    """XXH3, in a sixth of the time of SHA-256. It tells accidents: who may write here may write the manifest too."""
    if not path.stat().st_size:
        return "nothing"
    # as one piece of memory: between reads, this thread would take Python from the training again and again
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return xxhash.xxh3_128(content).hexdigest()


def _remove(file: Path) -> None:
    """The manifest goes first: what has none is no checkpoint."""
    file.with_suffix(".json").unlink(missing_ok=True)
    file.unlink()


def _read(file: Path) -> dict[str, Any]:
    with safe_open(file, framework="pt") as held:
        state: dict[str, Any] = _joined(json.loads(held.metadata()["values"]), held)
    return state


def _parted(tree: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """A tree of dicts and lists as JSON, in which the name of a tensor stands for it; dicts are lists of pairs."""
    if isinstance(tree, torch.Tensor):
        tensors[name] = tree.cpu()
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"pairs": [[key, _parted(value, f"{name}.{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return [_parted(value, f"{name}.{place}", tensors) for place, value in enumerate(tree)]
    return tree


def _joined(tree: Any, held: Any) -> Any:
    """The tree again; each tensor in memory of its own, aligned as torch aligns it, which may decide its bits."""
    if isinstance(tree, list):
        return [_joined(value, held) for value in tree]
    if isinstance(tree, dict) and "tensor" in tree:
        return held.get_tensor(tree["tensor"]).clone()
    return {key: _joined(value, held) for key, value in tree["pairs"]} if isinstance(tree, dict) else tree


def differences(then: Origin, now: Origin) -> list[str]:
    """What is not as it was, in words."""
    return [
        f"{name} is {now.get(name)!r} here, not {then.get(name)!r}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def _said_of(folder: Path, origin: Origin) -> str:
    """The same for the checkpoints of a folder."""
    for manifest in folder.glob("*.json"):
        with suppress(*UNREADABLE):
            return "; ".join(differences(read_json(manifest)["of"], origin))
    return "there is no manifest that can be read"
