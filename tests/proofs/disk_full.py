"""The disk is full, at one place after the other, from the start of a run to the promotion.

usage: python tests/proofs/disk_full.py [STEP]

A tiny road with a champion and 200 new rows is run on a small disk of its own with no room left. While the run fails,
it is given STEP KiB more (60 if none is named) and the same command again, so that it fails further on. Each failure
must end with status 74, say where there was no room and what to do, leave no temporary file, and the champion must
answer; at the end there must be what a run makes that had room: one new version, one promotion, nothing left to do.
Prints what failed for want of room. Takes ten minutes.
"""

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for the tiny road

from shell import staytuned, staytuned_in
from tiny import make_rows, make_workspace, write_csv

from staytuned import serve
from staytuned.registry.ledger import PROMOTION, Ledger
from staytuned.workspace import Workspace

FULL = 74  # exit status
PLACES = {"the registry", "split", "drift", "encode", "train", "evaluate", "the DVC remote"}  # that must have failed


def main(step: int) -> int:
    """0 if all of these failed, and nothing was amiss."""
    with tempfile.TemporaryDirectory() as scratch:
        road = make_workspace(Path(scratch) / "road")
        for words in (["ingest", rows(road, 600, 0)], ["run"], ["ingest", rows(road, 200, 1)]):
            assert staytuned(road, *words).returncode == 0
        failed = run_until_there_is_room(road, step)
    for place, times in failed.items():
        print(f"{place}: {times} times without room")
    missing = sorted(PLACES - set(failed))
    print(
        f"{sum(failed.values())} runs without room, then one that ended: {f'NOT MET: {missing}' if missing else 'met'}"
    )
    return int(bool(missing))


def rows(road: Workspace, count: int, seed: int) -> Path:
    """A file of them."""
    return write_csv(road.root / f"{seed}.csv", make_rows(count, seed))


def run_until_there_is_room(road: Workspace, step: int) -> Counter[str]:
    """Run with more and more room; the places where it failed, and how often at each."""
    failed, room = Counter[str](), 0
    by_dvc = {road.root / ".dvc", road.var / "remote"}  # which has temporary files of its own
    while (done := staytuned_in(room, road, "run")).returncode:
        last = done.stderr.splitlines()[-1]
        assert done.returncode == FULL and "Traceback" not in done.stderr, done.stderr
        assert (
            "no room to write at" in done.stderr and "free some space, then run the same command again" in done.stderr
        )
        left = [path for path in road.root.rglob("*.tmp") if not by_dvc & {*path.parents}]
        assert not left, left
        assert serve.predict_text(road, "a lovely lamp").endswith("version 1")
        failed[place(road, last)] += 1
        print(f"{room} KiB: {last}", flush=True)
        room += step
    assert serve.predict_text(road, "a lovely lamp").endswith("version 2"), done.stdout
    assert [entry.kind for entry in Ledger(road.ledger).entries()].count(PROMOTION) == 2
    again = staytuned(road, "run")
    assert again.returncode == 0 and "nothing to do" in again.stdout, again.stderr
    return failed


def place(road: Workspace, said: str) -> str:
    """What failed by the words of its error: a stage, or the file."""
    stage = re.match("error: stage '(.*)' ended", said)
    file = re.match("error: no room to write at (.*?): the disk", said)
    if stage or not file:
        return stage[1] if stage else said
    return file[1].removeprefix(f"{road.root}/").split("/models/")[0]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 60))
