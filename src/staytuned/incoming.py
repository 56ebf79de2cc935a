"""The incoming folder: a file that is put there and is whole becomes a batch."""

import time
from pathlib import Path

from staytuned import alerts, road
from staytuned.errors import BusyError, DataError, StaytunedError, from_os_error
from staytuned.files import printable, write_text
from staytuned.params import Params
from staytuned.workspace import Workspace

State = tuple[int, int]  # of a file: size, time of the last change


class Incoming:
    """Looks at the folder again and again; remembers how long each file has been as it is."""

    def __init__(self, workspace: Workspace, params: Params) -> None:
        self.workspace = workspace
        self.params = params
        self.folder = workspace.root / params.watch.incoming
        self.folder.mkdir(parents=True, exist_ok=True)
        self._seen: dict[Path, tuple[State, float]] = {}
        self._told = ""  # the last trouble that is none of a file's

    def settled(self) -> list[Path]:
        """Files that have been still for ``watch.settle_seconds`` of our own clock, the oldest first.

        Hidden files are left alone, as is a name that ends in ``.tmp`` or ``.part``.
        """
        now = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)  # it may have been removed
        states = {path: state for path in self.folder.iterdir() if (state := _state(path))}
        before = self._seen
        self._seen = {
            path: before[path] if path in before and before[path][0] == state else (state, now)
            for path, state in states.items()
        }
        still = [path for path, (_, since) in self._seen.items() if now - since >= self.params.watch.settle_seconds]
        return sorted(still, key=lambda path: (states[path][1], path.name))

    def take(self) -> int:
        """Ingest the settled files and move them to ``done``, or to ``refused`` beside the reason; how many are in.

        What is no fault of the file, such as a run at work or a full disk, leaves it where it is, for the next look.
        """
        taken, path = 0, self.folder
        try:
            for path in self.settled():
                taken += self._take(path)
                self._told = ""  # what was in the way is not
        except BusyError:
            pass
        except (StaytunedError, OSError) as error:
            self._tell(from_os_error(error, path) if isinstance(error, OSError) else error)
        return taken

    def _take(self, path: Path) -> bool:
        """Ingest a file and move it away; False if it is refused, or stays since it was written again meanwhile."""
        before = _state(path)
        fault = self._ingest(path)
        if _state(path) != before:  # nobody has read what it holds now
            return False
        if fault:
            self._refuse(path, fault)
            return False
        path.rename(_place(path, self.folder / "done"))
        return True

    def _ingest(self, path: Path) -> str | None:
        """Ingest a file; returns why that cannot be."""
        try:
            road.ingest(self.workspace, path)
        except DataError as error:
            return str(error)
        except PermissionError as error:
            if error.filename != str(path):  # it is ours
                raise
            return f"nobody but its owner may read it: {error.strerror}"
        except (StaytunedError, OSError):
            raise
        except Exception as error:  # one bad file must not keep the others out
            return repr(error)
        return None

    def _refuse(self, path: Path, reason: str) -> None:
        there = _place(path, self.folder / "refused")
        write_text(there.with_name(f"{there.name}.txt"), printable(f"{reason}\n"))
        path.rename(there)
        text = (
            f"{path.name} was not ingested: {reason}\nIt lies in {there}; mend it and put it into {self.folder} again"
        )
        alerts.send(self.params, "refused file", printable(text))

    def _tell(self, error: StaytunedError) -> None:
        if str(error) != self._told:
            alerts.send(self.params, "failed run", f"{error}\nThe files in {self.folder} wait until that is mended")
        self._told = str(error)


def _state(path: Path) -> State | None:
    """None for what is no file to ingest."""
    if path.name.startswith(".") or path.suffix in (".tmp", ".part"):
        return None
    try:
        found = path.stat()
    except FileNotFoundError:  # it was moved away as we looked
        return None
    return (found.st_size, found.st_mtime_ns) if path.is_file() else None


def _place(path: Path, folder: Path) -> Path:
    """Where in a folder a file may go; another of that name stays, and this one gets a number."""
    folder.mkdir(exist_ok=True)
    target, number = folder / path.name, 1
    while target.exists():
        number += 1
        target = folder / f"{path.stem}-{number}{path.suffix}"
    return target
