"""``staytuned watch`` runs by its schedule: the flow run is read back from a Prefect server that stands by itself.

usage: python tests/proofs/by_cron.py

On the tiny road, with a champion, a cron of every minute, and rows that arrive behind the watch's back. Prints when the
run was due that trained on them and when it began, and that no minute had two. Takes two to four minutes.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import urllib3

sys.path.append(str(Path(__file__).parents[1]))  # for the tiny road

from shell import command, staytuned
from tiny import make_rows, make_workspace, set_params, write_csv

from staytuned.pages import prefect_settings, start_prefect
from staytuned.registry.ledger import DECISION, Ledger
from staytuned.watch import PLANNED, name_of
from staytuned.workspace import Workspace

PATIENCE = 600  # seconds
LATE = 60  # seconds after its time in which a run must begin


def main() -> int:
    """0 if a run began by the schedule, in time, and trained on the rows that had come since the last."""
    with tempfile.TemporaryDirectory() as scratch:
        workspace = make_workspace(Path(scratch) / "road")
        workspace.var.mkdir(exist_ok=True)
        prefect_settings(workspace)
        os.environ["PREFECT_API_URL"] = url = start_prefect(workspace)
        set_params(workspace, watch__cron="* * * * *", triggers__new_rows=150)
        ingest(workspace, 600, 0)
        assert staytuned(workspace, "run").returncode == 0
        with (workspace.var / "watch.log").open("w") as log:
            watch = subprocess.Popen(
                command("watch"), cwd=workspace.root, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait(lambda: flow_runs(url, workspace, planned=False, state="COMPLETED"))  # for what came before the watch
            ingest(workspace, 200, 1)  # behind the watch's back: only the schedule can find it
            wait(lambda: trainings(workspace) == 2)
            run = wait(lambda: working(url, workspace))[0]
            wait(lambda: flow_runs(url, workspace, planned=True, state="COMPLETED", id=run["id"]))
        except TimeoutError:
            print((workspace.var / "watch.log").read_text(), "\nno run by the schedule did it: NOT MET")
            return 1
        finally:
            os.killpg(watch.pid, signal.SIGINT)
            watch.wait(60)
        times = [one["expected_start_time"] for one in flow_runs(url, workspace, planned=True)]
    due, began = (datetime.fromisoformat(run[name]) for name in ("expected_start_time", "start_time"))
    late = (began - due).total_seconds()
    print(f"due at {due:%H:%M:%S}, begun at {began:%H:%M:%S}, {late:.1f} s later; it trained on the new rows")
    met = late < LATE and len(times) == len(set(times))
    print(f"{len(times)} runs by the schedule, each of another minute: {'met' if met else 'NOT MET'}")
    return 0 if met else 1


def ingest(workspace: Workspace, count: int, seed: int) -> None:
    rows = write_csv(workspace.root / "rows.csv", make_rows(count, seed))
    assert staytuned(workspace, "ingest", rows).returncode == 0


def trainings(workspace: Workspace) -> int:
    return [entry.kind for entry in Ledger(workspace.ledger).entries()].count(DECISION)


def working(url: str, workspace: Workspace) -> list[dict[str, Any]]:
    """The run by the schedule that had begun last when the second decision fell."""
    begun = [run for run in flow_runs(url, workspace, planned=True) if run["start_time"]]
    return sorted(begun, key=lambda run: str(run["start_time"]))[-1:]


def wait(what: Callable[[], Any]) -> Any:
    """Wait until something is there."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.5)
    raise TimeoutError


def flow_runs(url: str, workspace: Workspace, planned: bool, state: str = "", id: str = "") -> list[dict[str, Any]]:
    """Those that the server knows: by the schedule or not, in a state, of a number."""
    wanted = {"deployments": {"name": {"any_": [name_of(workspace)]}}}
    found = urllib3.PoolManager().request("POST", f"{url}/flow_runs/filter", json=wanted).json()
    return [
        run
        for run in found
        if (PLANNED in run["tags"]) == planned and state in ("", run["state_type"]) and id in ("", run["id"])
    ]


if __name__ == "__main__":
    sys.exit(main())
