"""A run that is stopped, at any stage, by whatever: the champion answers, nothing is half done, the next run goes on.

The tests of a group tell one story, in their order, on one workspace. Both are in git, where nobody has an identity.
"""

import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from shell import command, staytuned, staytuned_in
from tiny import make_rows, set_params, write_csv

from staytuned import serve
from staytuned.files import read_json, sha256
from staytuned.registry.ledger import DECISION, Ledger
from staytuned.workspace import Workspace

pytestmark = pytest.mark.slow

EARLY = pytest.mark.xdist_group("stopped early")
LATE = pytest.mark.xdist_group("stopped late")
NOBODY = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
Sign = Callable[[], int | bool | None]  # of a moment: false until it is there


def in_git(finished_road: Workspace, folder: Path) -> Workspace:
    """A copy of the finished road in a repository in which nobody can commit."""
    shutil.copytree(finished_road.root, folder, symlinks=True)
    for words in (["init", "-q"], ["config", "user.useConfigOnly", "true"], ["add", "--all"]):
        subprocess.run(["git", *words], cwd=folder, env=os.environ | NOBODY, check=True)
    commit = ["git", "commit", "-qm", "none"]
    assert subprocess.run(commit, cwd=folder, env=os.environ | NOBODY, capture_output=True).returncode == 128
    return Workspace(folder)


def process_of(workspace: Workspace, *words: str, loaded: str = "") -> int | None:
    """Number of the process of this workspace whose command holds ``words``, once it has loaded a library."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().split("\0")
            here = (process / "cwd").readlink() == workspace.root
            if here and set(words) <= set(command) and loaded in (process / "maps").read_text():
                return int(process.name)
        except OSError:  # it has ended
            continue
    return None


def stage_at_work(workspace: Workspace, stage: str) -> int | None:
    """Number of the process that runs a stage, once it has loaded what it works with."""
    return process_of(workspace, "staytuned.stages", stage, loaded="pyarrow")


@contextmanager
def running(workspace: Workspace, sign: Sign, own_prefect: bool, *words: object) -> Iterator[subprocess.Popen[str]]:
    """``staytuned WORDS`` in a process group of its own, once the sign is there; with a Prefect server of its own?"""
    environment = {name: value for name, value in os.environ.items() if not (own_prefect and name == "PREFECT_API_URL")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen(
        command(*words),
        cwd=workspace.root,
        env=environment | NOBODY,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        **pipes,
    )
    with run:
        try:
            while not sign():
                try:
                    run.wait(0.02)
                except subprocess.TimeoutExpired:
                    continue
                raise AssertionError(f"the run ended before its time:\n{run.communicate()}")
            yield run
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)


def is_whole(workspace: Workspace) -> bool:
    """No temporary file is left (DVC has some, and a kill may leave half a checkpoint), and the champion answers."""
    own = {workspace.root / ".dvc", workspace.var / "remote", workspace.checkpoints}
    left = [path for path in workspace.root.rglob("*.tmp") if own.isdisjoint(path.parents)]
    assert left == []
    assert serve.predict_text(workspace, "a lovely lamp").endswith("version 1")
    return True


def interrupt(workspace: Workspace, sign: Sign, *words: object, own_prefect: bool = False) -> str:
    """Press Ctrl-C in ``staytuned WORDS``, or ``staytuned run``, when the sign is there; what it said on stderr."""
    words = words or ("run",)
    with running(workspace, sign, own_prefect, *words) as run:
        os.killpg(run.pid, signal.SIGINT)
        said, errors = run.communicate(timeout=60)
    assert run.returncode == 130, said + errors
    assert f"stopped; `staytuned {words[0]}` again goes on from here" in errors and "Traceback" not in errors, errors
    assert is_whole(workspace)
    return errors


def outputs(workspace: Workspace) -> dict[str, str]:
    """What comes of the accepted rows, and what was decided."""
    files = [workspace.lock, workspace.split, workspace.ledger]
    folders = [workspace.encoded, workspace.candidate, workspace.evaluation, workspace.pin]
    files += [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): sha256(path) for path in files}


@pytest.fixture(scope="module")
def early(finished_road: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A road with a second batch: too many bad rows, a row of 10 MB among them."""
    workspace = in_git(finished_road, tmp_path_factory.mktemp("early") / "road")
    bad = [row | {"label": "meh"} for row in make_rows(30, seed=2)]
    rows = [*make_rows(200, seed=1), *bad, make_rows(1, seed=3)[0] | {"text": "x" * 10_000_000}]
    done = staytuned(workspace, "ingest", write_csv(workspace.root / "more.csv", rows), **NOBODY)
    assert done.returncode == 0, done.stderr
    return workspace


@EARLY
def test_ctrl_c_while_rows_are_taken_in(early: Workspace, tmp_path: Path) -> None:
    before = early.manifest.read_bytes(), sorted(early.batches.iterdir())
    rows = write_csv(tmp_path / "many.csv", make_rows(100_000, seed=4))
    interrupt(early, lambda: any(early.var.glob(".incoming.parquet.*.tmp")), "ingest", rows)
    assert (early.manifest.read_bytes(), sorted(early.batches.iterdir())) == before


@EARLY
def test_a_full_disk_stops_a_stage(early: Workspace) -> None:
    done = staytuned_in(4096, early, "run")
    assert done.returncode == 74, done.stdout + done.stderr
    assert "no room to write at" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert is_whole(early)


@EARLY
def test_above_the_budget_nothing_downstream_changes(early: Workspace) -> None:
    before = outputs(early)
    done = staytuned(early, "run", **NOBODY)
    assert done.returncode == 65, done.stdout + done.stderr
    for said in ("31 bad rows of 231", "validate.quarantine_budget", "`staytuned readmit COPY`", str(early.quarantine)):
        assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert outputs(early) == before
    assert is_whole(early)


@EARLY
def test_readmit_mends_a_batch_that_was_above_the_budget(early: Workspace) -> None:
    corrected = early.root / "corrected.csv"
    lines = early.quarantine.read_text(encoding="utf-8").splitlines(keepends=True)
    corrected.write_text("".join(line.replace(",meh,", ",neutral,") for line in lines if "xxx" not in line))
    assert staytuned(early, "readmit", corrected, **NOBODY).returncode == 0
    again = staytuned(early, "readmit", corrected, **NOBODY)
    assert again.returncode == 0 and "nothing was added" in again.stdout


@EARLY
def test_ctrl_c_while_rows_are_validated(early: Workspace) -> None:
    interrupt(early, lambda: any((early.root / "data").glob(".accepted.parquet.*.tmp")))


@EARLY
def test_ctrl_c_while_rows_are_split(early: Workspace) -> None:
    interrupt(early, lambda: stage_at_work(early, "split"))
    report = read_json(early.reports / "validation.json")
    assert (report["rows"], report["accepted"], report["quarantined"]) == (861, 830, 31)


@EARLY
def test_a_base_model_that_is_nowhere_offline_stops_before_training(early: Workspace) -> None:
    set_params(early, model__base="nobody/nothing")
    done = staytuned(early, "run", HF_HUB_OFFLINE="1", **NOBODY)
    assert done.returncode == 66, done.stdout + done.stderr
    places = [early.root / "base-models" / "nobody/nothing", early.root / "base-models" / "nothing", "the hub itself"]
    for said in ("base model 'nobody/nothing' (model.base)", *map(str, places), "put it into one of the folders"):
        assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert is_whole(early)
    set_params(early, model__base="tiny")


@EARLY
def test_ctrl_c_while_rows_are_encoded(early: Workspace) -> None:
    interrupt(early, lambda: stage_at_work(early, "encode"))


@pytest.fixture(scope="module")
def late(finished_road: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A road with more rows, on which training takes long."""
    workspace = in_git(finished_road, tmp_path_factory.mktemp("late") / "road")
    rows = write_csv(workspace.root / "more.csv", make_rows(200, seed=1))
    assert staytuned(workspace, "ingest", rows, **NOBODY).returncode == 0
    often = {"every_steps": 5, "keep": 2}
    set_params(workspace, train__epochs=5000, train__patience=10000, train__checkpoints=often)
    return workspace


def has_learnt(workspace: Workspace) -> bool:
    """Whether training is at work and has written to its curve, which DVC took away before."""
    return bool(stage_at_work(workspace, "train")) and workspace.curve.exists() and workspace.curve.stat().st_size > 200


@LATE
def test_nothing_goes_on_when_the_driver_is_killed(late: Workspace) -> None:
    with running(late, lambda: has_learnt(late), True, "run") as run:
        children = [stage_at_work(late, "train"), process_of(late, "prefect", "server")]
        ends = [os.pidfd_open(child or 0) for child in children]
        run.kill()
        for end in ends:
            ended, _, _ = select.select([end], [], [], 30)
            os.close(end)
            assert ended, "it outlives its driver"
    assert is_whole(late)


@LATE
def test_a_stage_that_the_kernel_kills_is_told_with_a_status_of_its_own_and_not_tried_again(late: Workspace) -> None:
    with running(late, lambda: has_learnt(late), False, "run") as run:
        os.kill(stage_at_work(late, "train") or 0, signal.SIGKILL)
        said = run.communicate(timeout=120)[1]
    assert run.returncode == 247 and "lower train.micro_batch" in said
    assert is_whole(late)


@LATE
def test_ctrl_c_in_training(late: Workspace) -> None:
    said = interrupt(late, lambda: has_learnt(late), own_prefect=True)
    assert "training goes on from the checkpoint" in said  # of the run that was killed
    assert process_of(late, "prefect", "server") is None
    set_params(late, train__epochs=6, train__patience=12)  # another training: what the first left is no hindrance


@LATE
def test_ctrl_c_in_evaluation(late: Workspace) -> None:
    interrupt(late, lambda: stage_at_work(late, "evaluate"))


@LATE
def test_ctrl_c_between_decision_and_registration(late: Workspace) -> None:
    decisions = [entry.kind for entry in Ledger(late.ledger).entries()].count(DECISION)
    interrupt(late, lambda: [entry.kind for entry in Ledger(late.ledger).entries()].count(DECISION) > decisions)


@LATE
def test_without_an_identity_for_git_the_road_comes_to_its_end_and_commits_nothing(late: Workspace) -> None:
    trained = (late.candidate / "model.safetensors").stat().st_mtime_ns
    done = staytuned(late, "run", **NOBODY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (late.candidate / "model.safetensors").stat().st_mtime_ns == trained
    decisions = [entry for entry in Ledger(late.ledger).entries() if entry.kind == DECISION]
    assert len(decisions) == 2 and decisions[-1].facts["outcome"] in ("PROMOTE", "HOLD")
    assert "nothing to do" in staytuned(late, "run", **NOBODY).stdout
    head = ["git", "rev-parse", "--verify", "--quiet", "HEAD"]
    assert subprocess.run(head, cwd=late.root, capture_output=True).returncode == 1
