"""The disk is full at every boundary from ingest to promotion; then there is room, and the same command again.

usage: python tests/proofs/disk_full.py

The boundaries, and what must be true in the end, are those of kill_loop.py. Just before each the disk, a small one of
its own, is filled to the last byte. The command must end with status 74, with one error that says where there was no
room and what to do; or go on to its end, where it has nothing left to write. While the disk is full the champion must
answer. When there is room the same command must end as if nothing had been: one new version, one promotion, nothing
left over. Takes 15 minutes, and needs a Linux that lets this user mount a disk in a namespace (``unshare``).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # for the tiny road

from kill_loop import COMMANDS, DIES_AT, POINTS, STAGES, Trial, resumed, unharmed

from staytuned import serve
from staytuned.pages import prefect_settings, start_prefect
from staytuned.workspace import Workspace

FULL = 74  # exit status
INSIDE = "STAYTUNED_MAY_MOUNT"  # environment variable: this process has a namespace for its mounts
WRITE = {*STAGES, "Tracker.evidence", "push", "Registry.register"}  # the boundaries that must not go on without room


def main() -> int:
    """0 if each trial ended as it must."""
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "yes"
        os.execvp("unshare", ["unshare", "--map-root-user", "--mount", sys.executable, __file__])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # the mount goes with this process
        disk, server = Path(scratch) / "disk", Workspace(Path(scratch))
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "none", disk], check=True)
        server.var.mkdir()
        prefect_settings(server)
        os.environ["PREFECT_API_URL"] = start_prefect(server)
        told, found = unharmed(disk), dict[str, str]()
        for cut, points in POINTS.items():
            for point in points:
                name = point.split(":")[1].removeprefix("run_stage(").rstrip(")")
                found[name] = attempt(disk, cut, point, told["state"])
                print(f"{name}: {found[name]}", flush=True)
        wrong = [name for name, said in found.items() if said not in ("no room", "went on")]
        wrong += [name for name in WRITE if found[name] == "went on"]
    stopped = sum(said == "no room" for said in found.values())
    print(f"{len(found)} boundaries: {stopped} ended for want of room, {len(found) - stopped - len(wrong)} went on")
    print(f"NOT MET: {', '.join(wrong)}" if wrong else "met")
    return int(bool(wrong))


def attempt(disk: Path, cut: str, point: str, expected: dict[str, Any]) -> str:
    """One trial: what came of it, in two words if that is right."""
    trial = Trial(disk, "trial", disk / "before" / cut, own_server=cut == "stages")  # whose files lie on the disk too
    balloon, trial.log = disk / "balloon", disk.with_name("said")  # the words have room
    trial.log.write_bytes(b"")
    status = trial.start(sys.executable, DIES_AT, point, "before", balloon, *COMMANDS[cut]).wait(300)
    said = trial.log.read_text(errors="replace")
    try:
        assert balloon.exists(), "was never reached"
        assert status in (0, FULL) and "Traceback" not in said, f"ended with {status}: {said}"
        assert status == 0 or "error: no room to write at" in said, f"does not say where: {said}"
        answered = serve.predict_text(trial.workspace, "a lovely lamp").split("version ")[1]
        assert status != 0 or cut == "rows" or answered == "2", f"went on, and version {answered} answers"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        balloon.unlink(missing_ok=True)
    try:
        wrong = resumed(trial, cut, expected)["wrong"]
    except Exception as error:
        return f"again: {type(error).__name__}: {error}"
    shutil.rmtree(trial.folder)
    return f"is not as it should be: {wrong}" if wrong else "went on" if status == 0 else "no room"


if __name__ == "__main__":
    sys.exit(main())
