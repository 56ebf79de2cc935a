"""``staytuned watch`` on a running Prefect server, whose own word on deployments and flow runs is read back."""

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import urllib3
from receiver import Receiver
from shell import command, staytuned
from test_stopped import has_learnt, process_of, stage_at_work
from tiny import make_rows, set_params, write_csv

from staytuned import serve
from staytuned.alerts import FURTHER
from staytuned.params import Params
from staytuned.registry.ledger import DECISION, TRIGGER, Ledger
from staytuned.watch import MOST, PLANNED, Watch, name_of
from staytuned.workspace import Workspace

HOUR = (datetime.now(UTC).hour + 12) % 24  # of the schedule: not while the tests run

pytestmark = [pytest.mark.xdist_group("watch"), pytest.mark.slow]


def asked(server: str, what: str, **wanted: Any) -> Any:
    return urllib3.PoolManager().request("POST", f"{server}/{what}/filter", json=wanted).json()


def flow_runs(server: str, workspace: Workspace) -> list[dict[str, Any]]:
    """Those that are no mere plan, the oldest first."""
    wanted = {"deployments": {"name": {"any_": [name_of(workspace)]}}, "sort": "EXPECTED_START_TIME_ASC"}
    return [run for run in asked(server, "flow_runs", **wanted) if PLANNED not in run["tags"]]


def states(server: str, workspace: Workspace) -> list[str]:
    return [run["state_type"] for run in flow_runs(server, workspace)]


def wait(what: Callable[[], Any], seconds: float, log: Path) -> float:
    """Wait until something holds; the seconds that it took."""
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < seconds, log.read_text()
        time.sleep(0.2)
    return time.monotonic() - begun


# One story, in the order of the tests, on one workspace


@pytest.fixture(scope="module")
def watched(
    finished_road: Workspace, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Workspace, "subprocess.Popen[bytes]", Path]]:
    """A road on which training takes long, under watch in a process group of its own, and what the watch says."""
    folder = tmp_path_factory.mktemp("watched")
    workspace = Workspace(shutil.copytree(finished_road.root, folder / "road", symlinks=True))
    set_params(workspace, watch__settle_seconds=1.0, triggers__new_rows=150, train__epochs=5000, train__patience=10000)
    set_params(workspace, watch__cron=f"17 {HOUR} * * *")
    with (folder / "log").open("w") as log:
        watch = subprocess.Popen(
            command("watch"), cwd=workspace.root, stdout=log, stderr=log, start_new_session=True, env=os.environ
        )
        try:
            yield workspace, watch, folder / "log"
        finally:
            if watch.poll() is None:
                os.killpg(watch.pid, signal.SIGKILL)
                watch.wait()


def test_the_server_knows_the_deployment_and_plans_its_runs(watched: Any, prefect_server: str) -> None:
    workspace, _, log = watched
    wanted = {"deployments": {"name": {"any_": [name_of(workspace)]}}}
    wait(lambda: asked(prefect_server, "deployments", **wanted), 60, log)
    (deployment,) = asked(prefect_server, "deployments", **wanted)
    assert [schedule["schedule"]["cron"] for schedule in deployment["schedules"]] == [f"17 {HOUR} * * *"]
    assert deployment["parameters"] == {"workspace": str(workspace.root), "only_if_needed": True}
    assert deployment["global_concurrency_limit"]["limit"] == 1

    def planned() -> list[dict[str, Any]]:
        return [run for run in asked(prefect_server, "flow_runs", **wanted) if PLANNED in run["tags"]]

    wait(planned, 60, log)
    assert {(run["state_type"], run["expected_start_time"][11:16]) for run in planned()} == {
        ("SCHEDULED", f"{HOUR:02}:17")
    }


def test_it_asks_once_for_what_arrived_before(watched: Any, prefect_server: str) -> None:
    workspace, _, log = watched
    wait(lambda: states(prefect_server, workspace) == ["COMPLETED"], 100, log)
    (entry,) = [entry for entry in Ledger(workspace.ledger).entries() if entry.kind == TRIGGER]
    assert entry.facts["retrain"] is False and "0 of 150 new rows" in entry.facts["waiting"]
    assert log.read_text().count("no training is due: ") == 1


def test_a_workspace_is_watched_once(watched: Any) -> None:
    again = staytuned(watched[0], "watch")
    assert again.returncode == 75 and "is at work in" in again.stderr, again.stderr


def test_a_file_that_arrives_leads_to_a_run_and_a_killed_run_is_taken_up(watched: Any, prefect_server: str) -> None:
    workspace, _, log = watched
    write_csv(workspace.root / "data" / "incoming" / "more.csv", make_rows(200, seed=1))
    wait(lambda: has_learnt(workspace), 200, log)
    assert states(prefect_server, workspace)[1:] == ["RUNNING"]
    _, entry = [entry for entry in Ledger(workspace.ledger).entries() if entry.kind == TRIGGER]
    assert "200 of 150 new rows" in entry.facts["reasons"]

    flow, stage = process_of(workspace, "prefect.engine") or 0, stage_at_work(workspace, "train") or 0
    ends = os.pidfd_open(stage)
    set_params(workspace, train__epochs=6, train__patience=12)
    os.kill(flow, signal.SIGKILL)
    assert select.select([ends], [], [], 30)[0], "the stage outlives its flow"
    os.close(ends)
    took = wait(lambda: states(prefect_server, workspace)[2:] == ["RUNNING"], 90, log)
    _, killed, taken_up = flow_runs(prefect_server, workspace)
    assert killed["state_type"] == "CRASHED" and killed["tags"] == ["arrival"] and taken_up["tags"] == ["taken up"]
    assert took < 90 and "ended before its time and is taken up" in log.read_text()
    assert serve.predict_text(workspace, "a lovely lamp").endswith("version 1")


def test_the_run_that_was_taken_up_comes_to_its_end(watched: Any, prefect_server: str) -> None:
    workspace, _, log = watched
    wait(lambda: states(prefect_server, workspace)[2:] == ["COMPLETED"], 300, log)
    assert [entry.kind for entry in Ledger(workspace.ledger).entries()].count(DECISION) == 2
    assert (workspace.root / "data" / "incoming" / "done" / "more.csv").exists()


def test_ctrl_c_ends_the_watch_and_all_that_it_started(watched: Any) -> None:
    workspace, watch, log = watched
    os.killpg(watch.pid, signal.SIGINT)
    assert watch.wait(60) == 130, log.read_text()
    assert process_of(workspace) is None
    assert "Traceback" not in log.read_text()


# Parts of it, in process


def with_client(workspace: Workspace, what: Callable[[Watch, Any, UUID], Awaitable[Any]], served: bool = True) -> Any:
    """Deploy, as the watch does, and await ``what`` of the watch, the server's client and the deployment."""
    from prefect.client.orchestration import get_client
    from prefect.runner import Runner

    async def run() -> Any:
        watch = Watch(workspace, Params.read(workspace.params))
        async with get_client() as client:
            return await what(watch, client, await watch._deploy(Runner() if served else None))

    before = Path.cwd()
    os.chdir(workspace.root)
    try:
        return asyncio.run(run())
    finally:
        os.chdir(before)


def test_runs_that_crash_again_and_again_are_left_at_that(
    road: Workspace, prefect_server: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Crashed

    monkeypatch.setenv(FURTHER, receiver.url)

    async def crash(watch: Watch, client: Any, deployment: UUID) -> None:
        await client.create_flow_run_from_deployment(deployment)
        for _ in range(2 * MOST):
            newest = (await watch._runs(client, deployment, 1))[0]
            await client.set_flow_run_state(newest.id, Crashed(message="out of memory"), force=True)
            await watch._take_up(client, deployment)

    with_client(road, crash)
    assert states(prefect_server, road) == ["CRASHED"] * MOST
    *before, last = [got["message"] for got in receiver.got]
    assert ["ended before its time and is taken up" in message for message in before] == [True] * (MOST - 1)
    assert last.startswith(f"{MOST} flow runs in a row crashed, the last with: out of memory\nThe champion")


def test_what_a_killed_watch_left_running_is_taken_up(road: Workspace, prefect_server: str) -> None:
    from prefect.states import Running

    async def start_again(watch: Watch, client: Any, deployment: UUID) -> None:
        run = await client.create_flow_run_from_deployment(deployment)
        await client.set_flow_run_state(run.id, Running(), force=True)
        await watch._bury(client, deployment, "killed")
        await watch._take_up(client, deployment)

    with_client(road, start_again)
    assert states(prefect_server, road) == ["CRASHED", "SCHEDULED"]


def test_a_schedule_is_planned_once_whatever_the_clock_does_and_anew_when_it_changes(
    road: Workspace, prefect_server: str
) -> None:
    async def plan_twice(watch: Watch, client: Any, deployment: UUID) -> list[str]:
        await watch._forget_plan(client, deployment)
        await watch._plan(client, deployment)
        watch.planned = datetime.now(UTC) + timedelta(days=3)  # as when the clock was set back since
        await watch._plan(client, deployment)
        runs = await watch._runs(client, deployment, 10, timedelta(days=1))
        return [f"{run.expected_start_time:%H:%M}" for run in runs]

    for minute in (11, 12):
        set_params(road, watch__cron=f"{minute} {HOUR} * * *")
        assert with_client(road, plan_twice) == [f"{HOUR:02}:{minute}"]


@pytest.mark.parametrize(
    "changes", [{"watch__cron": "99 * * * *"}, {"watch__work_pool": "nobodys"}], ids=["cron", "work pool"]
)
def test_what_prefect_does_not_know_is_named(road: Workspace, prefect_server: str, changes: dict[str, str]) -> None:
    set_params(road, **changes)
    done = staytuned(road, "watch")
    assert (done.returncode, "watch.cron or watch.work_pool" in done.stderr) == (78, True), done.stderr


def test_a_work_pool_runs_the_deployment(road: Workspace, prefect_server: str) -> None:
    set_params(road, watch__work_pool="pool", watch__cron=None)
    prefect = [sys.executable, "-m", "prefect"]
    subprocess.run([*prefect, "work-pool", "create", "pool", "--type", "process"], check=True, capture_output=True)

    async def start(_: Watch, client: Any, deployment: UUID) -> None:
        await client.create_flow_run_from_deployment(deployment)

    with_client(road, start, served=False)
    worker = [*prefect, "worker", "start", "--pool", "pool", "--run-once"]
    done = subprocess.run(worker, cwd=road.root.parent, capture_output=True, text=True, timeout=200)
    assert states(prefect_server, road) == ["COMPLETED"], done.stdout + done.stderr


def test_a_run_that_died_with_its_worker_is_taken_up_by_the_next(road: Workspace, prefect_server: str) -> None:
    set_params(road, watch__work_pool="mortal", watch__cron=None, train__epochs=5000, train__patience=10000)
    assert staytuned(road, "ingest", write_csv(road.root / "more.csv", make_rows(200, seed=1))).returncode == 0
    set_params(road, triggers__new_rows=150)
    prefect, log = [sys.executable, "-m", "prefect"], road.root / "watch.log"
    subprocess.run([*prefect, "work-pool", "create", "mortal", "--type", "process"], check=True, capture_output=True)
    with log.open("w") as handle, ExitStack() as started:

        def start(*words: object) -> "subprocess.Popen[bytes]":
            one = subprocess.Popen(
                list(map(str, words)), cwd=road.root, stdout=handle, stderr=handle, start_new_session=True
            )
            started.callback(end, one)
            return one

        start(*command("watch"))
        worker = start(*prefect, "worker", "start", "--pool", "mortal")
        wait(lambda: has_learnt(road), 200, log)
        flow = process_of(road, "prefect.engine") or 0
        assert states(prefect_server, road) == ["RUNNING"]
        set_params(road, train__epochs=6, train__patience=12)
        os.killpg(worker.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(flow, signal.SIGKILL)
        start(*prefect, "worker", "start", "--pool", "mortal")
        took = wait(lambda: states(prefect_server, road)[1:] == ["RUNNING"], 90, log)
        assert took < 90 and flow_runs(prefect_server, road)[1]["tags"] == ["taken up"]
        assert states(prefect_server, road)[0] == "CRASHED" and "the worker that ran it has ended" in log.read_text()
        wait(lambda: states(prefect_server, road)[1:] == ["COMPLETED"], 200, log)
    assert [entry.kind for entry in Ledger(road.ledger).entries()].count(DECISION) == 2


def test_without_a_server_it_has_one_of_its_own_for_its_time(road: Workspace) -> None:
    alone = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    set_params(road, watch__cron=None)
    log = road.root / "watch.log"
    with log.open("w") as handle, ExitStack() as started:
        watch = subprocess.Popen(
            command("watch"), cwd=road.root, stdout=handle, stderr=handle, start_new_session=True, env=alone
        )
        started.callback(end, watch)
        wait(lambda: "Prefect: http://127.0.0.1:" in log.read_text(), 150, log)
        server = log.read_text().partition("Prefect: ")[2].partition(";")[0]
        assert server != os.environ["PREFECT_API_URL"]
        wait(lambda: states(server, road) == ["COMPLETED"], 150, log)
        os.killpg(watch.pid, signal.SIGINT)
        assert watch.wait(60) == 130, log.read_text()
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        asked(server, "flow_runs")


def end(group: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all in its group."""
    with suppress(ProcessLookupError):
        os.killpg(group.pid, signal.SIGKILL)
    group.wait()
