"""The command as a user types it: in a process of its own, with room to write or without."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from staytuned.workspace import Workspace

# A small disk of its own at the workspace's place, for one command; what it left there is copied to $3.
SMALL_DISK = """
set -e
disk=$1 root=$2 after=$3 room=$4; shift 4
mkdir "$disk" "$after"
mount -t tmpfs -o size=256m none "$disk"
cp -a "$root/." "$disk"
used=$(df -k "$disk" | tail -1 | tr -s ' ' | cut -d ' ' -f 3)
mount -o remount,size=$((used + room))k "$disk"
mount --bind "$disk" "$root"
cd "$root"
set +e
"$@"
status=$?
mount -o remount,size=256m "$disk"
cp -a "$disk/." "$after"
exit $status
"""


def command(*words: object) -> list[str]:
    """``staytuned WORDS`` for subprocess, by this very interpreter."""
    return [sys.executable, "-m", "staytuned.cli", *map(str, words)]


def staytuned(workspace: Workspace, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``staytuned WORDS`` in the workspace, with further environment variables, and wait for its end."""
    return _run(command(*words), workspace, env=os.environ | environment)


def staytuned_in(room: int, workspace: Workspace, *words: object) -> subprocess.CompletedProcess[str]:
    """The same on a disk that is full after ``room`` KiB more.

    Where this user may mount no disk, no file may grow beyond ``room``: that fails in the same places.
    """
    if not _may_mount():
        limit = (room * 1024, room * 1024)
        return _run(command(*words), workspace, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    root = workspace.root
    after = root.with_name(f"{root.name}-after")
    places = [root.with_name(f"{root.name}-disk"), root, after, room]
    done = _run(["unshare", "-rm", "sh", "-c", SMALL_DISK, "sh", *map(str, places), *command(*words)], workspace)
    shutil.rmtree(root)
    after.rename(root)
    places[0].rmdir()
    return done


@contextmanager
def no_room(above: int = 0) -> Iterator[None]:
    """No file may grow above so many bytes, for this very process: what is written then fails as on a full disk."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (above, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True).returncode == 0
    )


def _run(words: list[str], workspace: Workspace, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=workspace.root, capture_output=True, text=True, timeout=300, **options)
