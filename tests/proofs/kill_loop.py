"""SIGKILL at every boundary and at random instants, from ingest to promotion; then the same command again.

usage: python tests/proofs/kill_loop.py FOLDER [--kills 50] [--jobs 2]

On the tiny road, with a champion and a batch of new rows: ``staytuned ingest`` and ``staytuned run`` are killed before
and after every call of POINTS, and at ``--kills`` instants drawn at random (seeded) from the time of a processor that
they take, others instead of those that come after the end; in turn the process alone and its whole group, every fifth
random one with a Prefect server of its own. Then the command is given again, and must end as if nothing had been: one
new version, one promotion, the same weights, nothing running, nothing half written, no lock held. FOLDER keeps what was
done in ``kills.jsonl``, and goes on from there; a workspace that failed is kept beside it.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # for the tiny road

from shell import command
from tiny import make_rows, make_workspace, set_params, write_csv

from staytuned import serve
from staytuned.data import batches
from staytuned.files import read_json, sha256
from staytuned.pages import prefect_settings, start_prefect
from staytuned.params import Params
from staytuned.registry.alias import alias_now
from staytuned.registry.ledger import CONFIRMATION, DECISION, PROMOTION, Ledger
from staytuned.registry.ledger_store import TERM
from staytuned.registry.release import finished
from staytuned.registry.versions import database
from staytuned.workspace import Workspace

# What each command is killed at, by the road that it is given on: one to which rows come, one to which they have come,
# and one whose stages are done (it was killed then already: it costs a third).
STAGES = ("validate", "split", "drift", "encode", "train", "evaluate")
POINTS = {
    "rows": [
        "staytuned.data.batches:write_text",  # the batch is there, the manifest does not say so yet
        "staytuned.registry.pin:refresh",
        "staytuned.pipeline:track",
    ],
    "stages": [*(f"staytuned.pipeline:run_stage({name})" for name in STAGES)],
    "release": [
        "staytuned.registry.tracking:Tracker.evidence",
        f"staytuned.registry.ledger:Ledger.append({DECISION})",
        "staytuned.pipeline:push",
        "staytuned.registry.versions:Registry.register",
        "staytuned.registry.versions:Registry._new_version",
        "staytuned.registry.versions:Registry.fetch",
        "staytuned.registry.release:move",
        "staytuned.registry.ledger_store:Writer.take_lease",
        f"staytuned.registry.ledger:Ledger.append({PROMOTION})",
        "staytuned.registry.versions:Registry.set_alias",
        "staytuned.registry.versions:Registry.tag",
        f"staytuned.registry.ledger:Ledger.append({CONFIRMATION})",
        "staytuned.registry.ledger_store:Writer.end_lease",
        "staytuned.registry.tracking:Tracker.finish",
    ],
}
COMMANDS = {"rows": ["ingest", "rows.csv"], "stages": ["run"], "release": ["run"]}
MARK = "STAYTUNED_PROOF"  # environment variable: which trial a process belongs to
ALIVE = "runs that seem alive to MLflow"
LOOK = 0.1  # seconds between looks at a process
ORPHANS = 10  # seconds in which all that was started must have ended
DIES_AT = Path(__file__).with_name("dies_at.py")
OWN_SERVER = 5  # one random kill in so many is of a run that starts its own Prefect server


class Trial:
    """One kill, in a workspace of its own."""

    def __init__(self, folder: Path, name: str, template: Path, own_server: bool = False) -> None:
        self.name = name
        self.folder = folder / "trials" / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.workspace = Workspace(shutil.copytree(template, self.folder / "road", symlinks=True))
        (self.folder / "tmp").mkdir()
        self.log = self.folder / "said"
        self.environment = os.environ | {MARK: name, "TMPDIR": str(self.folder / "tmp")}
        if own_server:
            del self.environment["PREFECT_API_URL"]

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        """A process in a group of its own, whose words go to a file."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*map(str, words)],
                cwd=self.workspace.root,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def do(self, words: list[str]) -> float:
        """Give a command and wait for its end; the seconds of a processor that it took."""
        process, used = self.start(*command(*words)), 0.0
        while process.poll() is None:
            used = max(used, self.used())
            time.sleep(LOOK)
        assert process.returncode == 0, f"{words[0]} ended with {process.returncode}: {self.said()}"
        return used

    def said(self) -> str:
        """The last of it."""
        return self.log.read_text(errors="replace")[-1500:]

    def processes(self) -> list[Path]:
        """What this trial started, and what that started, as long as it lives."""
        mark, found = f"{MARK}={self.name}".encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(process)
        return found

    def used(self) -> float:
        """Seconds of a processor that they have used, and those that they waited for: a clock that no load hastens."""
        ticks = 0
        for process in self.processes():
            with suppress(OSError):
                ticks += sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def left_running(self) -> list[str]:
        """Command lines of what lives."""
        found = []
        for process in self.processes():
            with suppress(OSError):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        return [line for line in found if line]

    def all_end(self) -> float:
        """Wait until nothing that it started is left; the seconds that it took."""
        begun = time.monotonic()
        while left := self.left_running():
            assert time.monotonic() - begun < ORPHANS, f"still running: {left}"
            time.sleep(0.1)
        return time.monotonic() - begun

    def state(self) -> dict[str, Any]:
        """What must be the same whether it was killed or not."""
        space, ledger = self.workspace, Ledger(self.workspace.ledger)
        batches.check_manifest(space)
        params = Params.read(space.params)
        with closing(sqlite3.connect(database(space))) as db:
            versions = [int(number) for (number,) in db.execute("SELECT version FROM model_versions ORDER BY version")]
            running = db.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()[0]
        with closing(sqlite3.connect(space.ledger)) as db:
            late = (time.time() + TERM,)  # its own workspace takes a killed promoter's lease over at once, others then
            leases = db.execute("SELECT count(*) FROM leases WHERE expires > ?", late).fetchone()[0]
        with space.hold():  # the kernel's lock is free
            done = finished(space, params)
        return {
            "batches": [batch.rows for batch in batches.manifest(space)],
            "rows": read_json(space.reports / "validation.json")["rows"],
            "versions": versions,
            "champion": alias_now(space, params, "champion"),
            "entries": [entry.kind for entry in ledger.entries()],
            "promoted": [entry.facts["version"] for entry in ledger.entries() if entry.kind == PROMOTION],
            "weights": sha256(space.candidate / "model.safetensors"),
            "nothing left to do": done is not None and done.decision.outcome == "PROMOTE",
            "answers": serve.predict_text(space, "a lovely lamp").split("version ")[1],
            ALIVE: running,
            "leases beyond their term": leases,
            "locks of DVC": _held(space.root / ".dvc" / "tmp" / "rwlock"),
            "half written": sorted(str(path.relative_to(space.root)) for path in _temporary(space)),
        }


def _held(rwlock: Path) -> dict[str, Any]:
    found = read_json(rwlock) if rwlock.exists() and rwlock.stat().st_size else {}
    return {path: holders for path, holders in found.items() if holders}


def _temporary(space: Workspace) -> list[Path]:
    """DVC has some of its own."""
    own = {space.root / ".dvc", space.var / "remote"}
    return [path for path in space.root.rglob("*.tmp") if own.isdisjoint(path.parents)]


def unharmed(folder: Path) -> dict[str, Any]:
    """How it ends when nobody kills it, and how long each command takes.

    It leaves the roads of POINTS, to be copied: with a champion, and a policy under which the next one is promoted.
    """
    record = folder / "unharmed.json"
    if not record.exists():
        for name in ("empty", "before"):
            shutil.rmtree(folder / name, ignore_errors=True)
        empty = make_workspace(folder / "empty")
        write_csv(empty.root / "first.csv", make_rows(600))
        write_csv(empty.root / "rows.csv", make_rows(200, seed=1))
        set_params(empty, gate__margin=1.0, gate__sources__margin=1.0)
        trial, seconds = Trial(folder, "unharmed", empty.root), dict[str, float]()
        trial.do(["ingest", "first.csv"])
        trial.do(["run"])
        for name in ("rows", "stages"):
            shutil.copytree(trial.workspace.root, folder / "before" / name, symlinks=True)
            seconds[name] = trial.do(COMMANDS[name])
        half = Trial(folder, "half", folder / "before" / "stages")
        assert at_boundary(half, "release", POINTS["release"][0], "before", "group")
        half.workspace.root.rename(folder / "before" / "release")
        shutil.rmtree(half.folder)
        trial.all_end()
        record.write_text(json.dumps({"seconds": seconds, "state": trial.state()}, indent=1))
        shutil.rmtree(trial.folder)
    return dict(read_json(record))


def at_boundary(trial: Trial, cut: str, point: str, when: str, who: str) -> bool:
    """Kill the command at a point of POINTS."""
    process = trial.start(sys.executable, DIES_AT, point, when, who, *COMMANDS[cut])
    return process.wait(300) == -signal.SIGKILL


def at_instant(trial: Trial, cut: str, instant: float, who: str) -> bool:
    """Kill the command after so many seconds of a processor; whether it had not ended before."""
    process = trial.start(*command(*COMMANDS[cut]))
    while trial.used() < instant:
        if process.poll() is not None:
            return False
        time.sleep(LOOK)
    (os.killpg if who == "group" else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    return True


def resumed(trial: Trial, cut: str, expected: dict[str, Any]) -> dict[str, Any]:
    """Give the command that was cut off again, and what follows it; what was found."""
    orphans = trial.all_end()
    answered = serve.predict_text(trial.workspace, "a lovely lamp").split("version ")[1]
    over = finished(trial.workspace, Params.read(trial.workspace.params)) is not None  # its last step was done
    for words in [COMMANDS[cut], ["run"]] if cut == "rows" else [["run"]]:
        trial.do(words)
    trial.all_end()
    wrong = {name: value for name, value in trial.state().items() if value != expected[name]}
    still_open = wrong.pop(ALIVE, 0) if over else 0  # nothing to do, so MLflow is not asked: the next run closes it
    return {"ended in": round(orphans, 1), "answered": answered, "still open": still_open, "wrong": wrong}


def main() -> int:
    """Kill, look, count; 1 if a trial failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2, help="trials at the same time")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    (folder / "server" / "var").mkdir(parents=True, exist_ok=True)
    server = Workspace(folder / "server")
    prefect_settings(server)
    os.environ["PREFECT_API_URL"] = start_prefect(server)
    return report(all_trials(folder, arguments.kills, arguments.jobs))


def all_trials(folder: Path, kills: int, jobs: int) -> list[dict[str, Any]]:
    """What ``kills.jsonl`` says of each once all are done, some at the same time: the clock is that of a processor."""
    told, record = unharmed(folder), folder / "kills.jsonl"
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    known = {line["name"] for line in done}
    to_do = iter([one for one in plan(kills, told["seconds"]) if one[0] not in known])
    running: dict[Future[dict[str, Any]], dict[str, Any]] = {}
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:  # DVC wants a working directory of its own
        while True:
            while len(running) < jobs and (one := _next(to_do, done, kills)):
                name, facts = one
                running[pool.submit(attempt, folder, name, facts, told["state"])] = {"name": name} | facts
            if not running:
                return done
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                line = running.pop(ended) | ended.result()
                done.append(line)
                with record.open("a") as handle:
                    handle.write(json.dumps(line) + "\n")
                print(
                    f"{len(done):3}  {line['name']}: {line.get('failed') or line.get('wrong') or 'whole'}", flush=True
                )


def _next(
    to_do: Iterator[tuple[str, dict[str, Any]]], done: list[dict[str, Any]], kills: int
) -> tuple[str, dict[str, Any]] | None:
    """The next trial; random ones only until so many came in time."""
    enough = sum("instant" in line and line.get("killed", True) for line in done) >= kills
    return next((one for one in to_do if not ("instant" in one[1] and enough)), None)


def plan(kills: int, seconds: dict[str, float]) -> list[tuple[str, dict[str, Any]]]:
    """Every trial, and as many random ones more, should some come too late: its name, and what is to happen."""
    boundaries = [
        (cut, point, when) for cut, points in POINTS.items() for point in points for when in ("before", "after")
    ]
    found: list[tuple[str, dict[str, Any]]] = []
    for number, (cut, point, when) in enumerate(boundaries):  # before and after, each by one and by the other
        who = ("process", "group")[(number + number // 2) % 2]
        name = f"{cut}-{when}-{point.split(':')[1].replace('(', '-').rstrip(')')}"
        found.append((name, {"cut": cut, "point": point, "when": when, "who": who}))
    chance, drawn = random.Random(11), list[tuple[str, dict[str, Any]]]()
    for number in range(2 * kills):
        instant = chance.uniform(0, sum(seconds.values()))
        cut = "rows" if instant < seconds["rows"] else "stages"
        own = number % OWN_SERVER == OWN_SERVER - 1
        facts = {"cut": cut, "instant": round(instant - (seconds["rows"] if cut == "stages" else 0), 2)}
        facts |= {"who": ("process", "group")[number % 2], "own_server": own}
        drawn.append((f"random-{number}", facts))
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(drawn[:kills], found))  # a part holds of both
    return [one for one in in_turn if one] + drawn[kills:]


def attempt(folder: Path, name: str, facts: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """One trial; ``failed`` says in words what went wrong, ``wrong`` what is not as without a kill."""
    cut, who = facts["cut"], facts["who"]
    trial = Trial(folder, name, folder / "before" / cut, facts.get("own_server", False))
    try:
        if "point" in facts:
            killed = at_boundary(trial, cut, facts["point"], facts["when"], who)
        else:
            killed = at_instant(trial, cut, facts["instant"], who)
        found = {"killed": killed} | resumed(trial, cut, expected)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    if not found["wrong"]:
        shutil.rmtree(trial.folder)
    return found


def report(done: list[dict[str, Any]]) -> int:
    """Print the counts."""
    failed = [line for line in done if "failed" in line or line["wrong"]]
    good = [line for line in done if line not in failed]
    print(f"\n{len(done)} trials, {sum(line['killed'] for line in good)} of them killed in time")
    for kind, of_kind in (("at a boundary", "point"), ("at a random instant", "instant")):
        these = [line for line in good if of_kind in line and line["killed"]]
        who = Counter(line["who"] for line in these)
        cuts = Counter(line["cut"] for line in these)
        print(f"  {kind}: {len(these)}; {dict(who)}; {dict(cuts)}")
    if good:
        print(f"  all that was started had ended after {max(line['ended in'] for line in good)} s at most")
        print(f"  champion that answered right after the kill: {dict(Counter(line['answered'] for line in good))}")
    unreached = [line["name"] for line in good if "point" in line and not line["killed"]]
    print(f"  boundaries that were never reached: {', '.join(unreached) or 'none'}")
    left = sum(line["still open"] for line in good)
    print(f"  killed after the last step, the record in MLflow left to the next run: {left}")
    print(f"  one new version, one promotion, nothing left over: {len(good)} of {len(done)}")
    for line in failed:
        print(f"  FAILED {line['name']}: {line.get('failed') or line['wrong']}")
    return 1 if failed or unreached else 0


if __name__ == "__main__":
    sys.exit(main())
