"""What can go wrong, and the exit status that tells it.

    StaytunedError                  1
    ├── ParamsError                78   params.yaml is wrong; nothing was started
    ├── DataError                  65   rows that cannot be used
    │   └── BudgetError            65   more bad rows than validate.quarantine_budget allows
    ├── MissingError               66   an input, a base model or a champion that is not there
    ├── RegistryError              69   the registry does not answer, or disagrees with the ledger
    ├── TrainingError              70   the loss is no longer a number, memory does not suffice, other bits came out
    ├── StorageError               74   the disk is full or cannot be written
    ├── BusyError                  75   another run holds the workspace or moves the champion; trying again may work
    ├── GateError                   4   the gate blocked the candidate; the champion stays
    └── StageError                      a stage ended; carries the stage's own exit status

The numbers are those of sysexits.h where it has one. 130 is Ctrl-C.
"""

import errno
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path


class StaytunedError(Exception):
    """Base of all; its text says what happened, with which value, and what to do next."""

    exit_status = 1


class ParamsError(StaytunedError):
    """params.yaml holds an unknown key, a wrong type or a contradiction."""

    exit_status = 78


class DataError(StaytunedError):
    """Rows or files that cannot be used as they are."""

    exit_status = 65


class BudgetError(DataError):
    """The share of quarantined rows is above the budget."""


class MissingError(StaytunedError):
    """Something that is needed is not there."""

    exit_status = 66


class RegistryError(StaytunedError):
    """The model registry does not answer, or does not agree with the ledger."""

    exit_status = 69


class TrainingError(StaytunedError):
    """Training cannot go on: the loss is not finite, memory does not suffice; or it came out otherwise than before."""

    exit_status = 70


class StorageError(StaytunedError):
    """Writing failed: a full disk, a read-only folder."""

    exit_status = 74


class BusyError(StaytunedError):
    """Another run holds the workspace, or is moving the champion, or has moved it meanwhile."""

    exit_status = 75


class GateError(StaytunedError):
    """The gate blocked the candidate."""

    exit_status = 4


class StageError(StaytunedError):
    """A stage ended with ``exit_status``; it has printed its own error, ``reason``, already."""

    def __init__(self, stage: str, exit_status: int, reason: str = "") -> None:
        said = "its message is above"
        if exit_status == -signal.SIGKILL:
            said = (
                "it was killed, mostly for want of memory: lower train.micro_batch or validate.chunk_rows, or free some"
            )
        super().__init__(f"stage {stage!r} ended with status {exit_status}; {said}")
        self.stage = stage
        self.exit_status = exit_status
        self.reason = reason


def from_os_error(error: OSError, place: Path) -> StorageError:
    """The same failure, with what to do about it; ``place`` is named where the error names no file."""
    where = error.filename2 or error.filename or place  # of two files, the second is the one written
    if is_full(error):
        return disk_full(where)
    return StorageError(f"{error.strerror or error} at {where}; mend that, then run the same command again")


def disk_full(where: object) -> StorageError:
    """What to say when there is no room left."""
    return StorageError(
        f"no room to write at {where}: the disk is full, or a quota or limit on files is reached; free some space, "
        "then run the same command again"
    )


def is_full(error: BaseException | None) -> bool:
    """Whether a lack of room is behind an error: libraries wrap that in errors of their own."""
    for reason in reasons(error):
        if isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(words in str(reason) for words in ("No space left on device", "disk is full", "File too large")):
            return True
    return False


def is_disk_full(place: Path) -> bool:
    """Whether the disk of a folder is full: a server that cannot write to it gives no reason."""
    return shutil.disk_usage(place).free < 2**20


def reasons(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
