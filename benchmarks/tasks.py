"""The whole road of a task on real data, from file to promoted version to a prediction in a fresh process.

usage: python benchmarks/tasks.py DATA FOLDER NAME...     NAME: of a job in jobs.py; FOLDER keeps the workspaces

DATA holds the public data sets named in docs/tasks.md, each in a folder of its own. Prints a line of its table for
each job: rows, epochs, processor seconds of the road, the first metric with its interval, what there was before, by how
much the candidate is better, and the answer to one row. Ends with 1 where the gain's interval holds 0.
"""

import resource
import subprocess
import sys
from pathlib import Path

from jobs import JOBS
from measure import ENVIRONMENT, wall
from tiny import set_params

from staytuned.files import read_json
from staytuned.start import init
from staytuned.workspace import Workspace


def prepare(data: Path, place: Path, name: str) -> None:
    """A workspace with the job's params and rows, if it is not there yet."""
    job = JOBS[name]
    if not (place / "params.yaml").exists():
        workspace = init(place, job.task)
        params = {key: value(data) if callable(value) else value for key, value in job.params.items()}
        set_params(workspace, **{"gate__bounds": {}, "train__threads": 1} | params)
        if job.make_base:
            job.make_base(place / "base-models" / params["model__base"])
        scratch = place / "var"
        scratch.mkdir(exist_ok=True)
        for file in job.files(data, scratch):
            wall(["staytuned", "ingest", str(file)], place)


def processor_seconds() -> float:
    """Of all processes that have ended below this one: other work on the machine does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(data: Path, folder: Path, name: str) -> bool:
    """One job; whether it is better than what there was before by more than the interval."""
    job, place = JOBS[name], folder / name
    prepare(data, place, name)
    seconds = -processor_seconds()
    wall(["staytuned", "run"], place)
    seconds += processor_seconds()
    said = subprocess.run(["staytuned", *job.predict], cwd=place, env=ENVIRONMENT, capture_output=True, text=True)
    report = read_json(Workspace(place).evaluation / "evaluation.json")
    sides = read_json(Workspace(place).reports / "split.json")["sides"]
    about = read_json(Workspace(place).candidate / "staytuned.json")
    metric = report["metrics"][0]
    candidate, base = report["models"]["candidate"], report["models"]["base"]
    low, high = candidate["intervals"][metric["name"]]
    gain = report["comparisons"]["base"][metric["name"]]
    print(
        f"| {job.task} | {name} | {sides['train']:,} / {sides['validation']:,} / {report['test']['rows']:,} | "
        f"{about['train']['epochs']} | {seconds:,.0f} | {metric['title']} {candidate['metrics'][metric['name']]:.3f} "
        f"({low:.3f} to {high:.3f}) | {report['before']}: {base['metrics'][metric['name']]:.3f} | "
        f"{gain['difference']:+.3f} ({gain['interval'][0]:+.3f} to {gain['interval'][1]:+.3f}) |"
    )
    others = ", ".join(f"{one['title']} {candidate['metrics'][one['name']]:.3f}" for one in report["metrics"][1:])
    print(f"  others: {others}\n  {' '.join(job.predict)}: {said.stdout.strip() or said.stderr.strip()}", flush=True)
    worst = gain["interval"][0] if metric["higher_is_better"] else -gain["interval"][1]
    return worst > 0


if __name__ == "__main__":
    data, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    better = [run(data, folder, name) for name in sys.argv[3:] or JOBS]  # all of them, whatever the first says
    sys.exit(not all(better))
