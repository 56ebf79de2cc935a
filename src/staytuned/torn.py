"""What a killed process may leave of the files that DVC writes in place, mended before DVC reads them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from staytuned.files import read_json, write_json


def mend(repo: Any) -> None:
    """Take out DVC's record of locks and its ``dvc.lock`` where a kill cut them off: DVC stops at them for good.

    Raises:
        LockError: another DVC process holds the workspace.
    """
    with _record_of_locks(repo) as record:
        try:
            if record.exists():
                read_json(record)
        except ValueError:
            record.unlink()
    _forget_torn_lock(repo)


@contextmanager
def _record_of_locks(repo: Any) -> Iterator[Path]:
    """The file in which DVC writes down who reads and writes what, behind DVC's own guard: nobody is writing it."""
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    guard, hardlink = str(Path(repo.tmp_dir, RWLOCK_LOCK)), repo.config["core"].get("hardlink_lock", False)
    with make_lock(guard, tmp_dir=repo.tmp_dir, hardlink_lock=hardlink):
        yield Path(repo.tmp_dir, RWLOCK_FILE)


def _forget_torn_lock(repo: Any) -> None:
    """Take out a torn ``dvc.lock``. Without one, DVC finds in its cache what the stages made."""
    from dvc.dvcfile import LOCK_FILE

    path = Path(repo.root_dir, LOCK_FILE)
    if not path.exists() or _looks_whole(path):
        return
    with repo.lock:  # nobody is writing it
        if not _looks_whole(path):
            path.unlink()


def _looks_whole(path: Path) -> bool:
    """A cut after another line than one that announces more, DVC reads as the lock of fewer stages."""
    text = path.read_bytes()
    return text.endswith(b"\n") and not text.endswith(b":\n")


def forget_dead_locks(repo: Any) -> None:
    """Take out of DVC's record what killed processes left in it, before their numbers are others' again.

    DVC does so only for the paths that it is asked for.
    """
    with _record_of_locks(repo) as record:
        held = read_json(record) if record.exists() else {}
        writers, readers = held.get("write", {}), held.get("read", {})
        writing = {path: one for path, one in writers.items() if _lives(one)}
        reading = {path: alive for path, some in readers.items() if (alive := [one for one in some if _lives(one)])}
        if (writing, reading) != (writers, readers):
            write_json(record, {"write": writing, "read": reading})


def _lives(holder: dict[str, Any]) -> bool:
    return holder["pid"] != os.getpid() and Path(f"/proc/{holder['pid']}").exists()
