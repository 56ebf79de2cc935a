"""What the flow adds to its stages: at most one start of a Prefect server, and 1.5 s a stage.

usage: python benchmarks/orchestration.py [ROUNDS]

A round measures four things, on copies of one tiny workspace:

- flow: ``staytuned run`` from a batch to a champion, with a Prefect server of its own;
- stages: the commands of dvc.yaml, one after the other, bare;
- release: decision, copy to the DVC remote, MLflow record, registration, reload in a fresh process, promotion, in a
  process of its own without Prefect. That is work, as the stages are, but it counts against the bound;
- server: from the first request to an answer of a Prefect server that has to be started, imports not counted.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import BIN, ENVIRONMENT, meets, spread, wall
from ruamel.yaml import YAML
from tiny import make_rows, make_workspace, write_csv

from staytuned import pipeline, road
from staytuned.pages import prefect_settings, start_prefect
from staytuned.params import Params
from staytuned.workspace import Workspace

A_STAGE = 1.5  # seconds


def main(rounds: int) -> bool:
    """Whether the bound is met."""
    with tempfile.TemporaryDirectory() as scratch:
        template = make_workspace(Path(scratch) / "template")
        road.ingest(template, write_csv(Path(scratch) / "rows.csv", make_rows(400)))
        order = pipeline.stage_order(template)
        measured = [one_round(template.root, Path(scratch) / str(number), order) for number in range(rounds)]
    flow, stages, release, server = (list(values) for values in zip(*measured, strict=True))
    for name, values in {"flow": flow, "stages": stages, "release": release, "server": server}.items():
        print(f"{name}: {spread(values, ' s')}")
    added = [whole - bare for whole, bare in zip(flow, stages, strict=True)]
    bound = statistics.median(server) + A_STAGE * len(order)
    return meets(f"flow less its {len(order)} stages", added, bound, " s")


def one_round(template: Path, folder: Path, order: list[str]) -> list[float]:
    """Seconds of flow, stages, release and server."""
    flow, bare = (shutil.copytree(template, folder / name, symlinks=True) for name in ("flow", "bare"))
    commands = YAML(typ="safe").load(bare / "dvc.yaml")["stages"]
    seconds = [
        wall([str(BIN / "staytuned"), "run"], flow),
        sum(wall(["sh", "-c", commands[stage]["cmd"]], bare) for stage in order),
    ]
    wall([str(BIN / "dvc"), "commit", "--force"], bare)  # what the release copies to the remote; not counted
    seconds.append(wall([sys.executable, __file__, "release", str(bare)]))
    command = [sys.executable, __file__, "server", str(folder / "server")]
    started = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    return [*seconds, float(started.stdout)]


def release_alone(workspace: Workspace) -> None:
    """What the flow does besides its stages, without Prefect."""
    from staytuned.registry.release import release
    from staytuned.registry.reload import reloader
    from staytuned.registry.tracking import Tracker
    from staytuned.registry.versions import Registry

    params = Params.read(workspace.params)
    registry = Registry(workspace, params)
    with registry.run() as run_id:
        tracker = Tracker(workspace, params, registry, run_id)
        tracker.start()
        tracker.evidence()
        with reloader(registry, params.train.threads) as reload:
            outcome = release(workspace, params, registry, run_id, reload)
        tracker.finish({"outcome": outcome.decision.outcome, "version": outcome.version, "key": outcome.key})


def server_start(workspace: Workspace) -> float:
    """Seconds until a Prefect server, started as the flow starts it, answers."""
    workspace.var.mkdir(parents=True)
    prefect_settings(workspace)
    start = time.perf_counter()
    start_prefect(workspace)
    return time.perf_counter() - start


if __name__ == "__main__":
    if sys.argv[1:2] == ["release"]:
        release_alone(Workspace(Path(sys.argv[2])))
    elif sys.argv[1:2] == ["server"]:
        print(server_start(Workspace(Path(sys.argv[2]))))
    else:
        sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
