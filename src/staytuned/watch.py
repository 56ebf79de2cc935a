"""Watch: the workspace's flow as a Prefect deployment, run by a schedule and whenever a file arrives."""

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from staytuned import alerts
from staytuned.errors import ParamsError, RegistryError
from staytuned.incoming import Incoming
from staytuned.pages import prefect_settings, start_prefect
from staytuned.params import Params
from staytuned.processes import WATCH
from staytuned.progress import busy
from staytuned.workspace import Workspace

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.runner import Runner

SOON = timedelta(seconds=60)  # a run that waits for another is due again after 30
POLL = 2  # seconds between looks at the folder, and at the flow runs
PLANNED = "auto-scheduled"  # Prefect's own tag for what a schedule plans
MOST = 3  # flow runs that crash in a row before the watch leaves it at that
LOST = timedelta(seconds=45)  # a run holds the workspace after some 10, and to its end


def watch(workspace: Workspace) -> None:
    """Serve the flow, and ingest what is put into the incoming folder, until Ctrl-C.

    Raises:
        BusyError: the workspace is watched already.
        ParamsError: Prefect does not know ``watch.cron`` or ``watch.work_pool``.
        RegistryError: the Prefect server does not answer.
    """
    params = Params.read(workspace.params)
    with workspace.hold("watch.lock"):
        os.chdir(workspace.root)  # Prefect looks for the flow from here
        prefect_settings(workspace)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        with busy("starting Prefect"):
            import httpx
            from prefect.settings import PREFECT_API_URL, temporary_settings

            url = PREFECT_API_URL.value() or start_prefect(workspace)
        os.environ[WATCH] = str(os.getpid())
        print(f"Prefect: {url}; rows: {workspace.root / params.watch.incoming}; schedule: {params.watch.cron}")
        try:
            with temporary_settings({PREFECT_API_URL: url}):
                asyncio.run(Watch(workspace, params).run())
        except httpx.HTTPError as error:
            raise RegistryError(f"the Prefect server at {url} does not answer: {error!r}; start it") from error


def name_of(workspace: Workspace) -> str:
    """The deployment's name: of this workspace alone, on a server that may know others."""
    import hashlib

    return f"{workspace.root.name}-{hashlib.sha256(str(workspace.root).encode()).hexdigest()[:8]}"


class Watch:
    """The deployment, the runner that runs it here unless a work pool does, and the folder."""

    def __init__(self, workspace: Workspace, params: Params) -> None:
        self.workspace = workspace
        self.params = params
        self.incoming = Incoming(workspace, params)
        self.owed = True  # a flow run, for rows that have arrived, perhaps before the watch began
        self.silent = False  # the server, when it was asked last
        self.planned: datetime | None = None  # the next run by the schedule; an earlier one if the clock goes back
        self.given_up: UUID | None = None  # the last flow run that crashed, where too many did
        self.alone: datetime | None = None  # since when a worker's run is at work, and nobody in the workspace

    async def run(self) -> None:
        """Until it is cancelled.

        Raises:
            ParamsError: Prefect does not know ``watch.cron`` or ``watch.work_pool``.
        """
        try:
            await self._run()
        except BaseExceptionGroup as group:  # as tasks that go on side by side raise what one of them does
            raise _first(group) from group

    async def _run(self) -> None:
        from prefect.client.orchestration import get_client
        from prefect.runner import Runner

        runner = None if self.params.watch.work_pool else Runner(name="staytuned", query_seconds=POLL, limit=1)
        async with get_client() as client, asyncio.TaskGroup() as tasks:
            deployment = await self._deploy(runner)
            await self._forget_plan(client, deployment)
            if runner:
                await self._bury(client, deployment, "the watch that ran it has ended")
                tasks.create_task(runner.start())
            while True:
                await self._look(client, deployment)
                await asyncio.sleep(POLL)

    async def _deploy(self, runner: "Runner | None") -> UUID:
        """Tell the Prefect server of the flow; it runs at most one at a time, and the workspace's lock makes sure."""
        from prefect.exceptions import ObjectNotFound
        from prefect.flows import load_flow_from_entrypoint

        options: dict[str, Any] = {
            "name": name_of(self.workspace),
            "cron": self.params.watch.cron,
            "concurrency_limit": 1,
            "parameters": {"workspace": str(self.workspace.root), "only_if_needed": True},
        }
        flow: Any = load_flow_from_entrypoint(self.workspace.flow)
        try:
            if runner:
                return await runner.aadd_deployment(await flow.ato_deployment(**options))
            entry = Path(self.workspace.flow.rpartition(":")[0]).relative_to(self.workspace.root)
            stored: Any = await type(flow).afrom_source(str(self.workspace.root), f"{entry}:{flow.fn.__name__}")
            pool = self.params.watch.work_pool
            return UUID(str(await stored.adeploy(**options, work_pool_name=pool, print_next_steps=False)))
        except (ValueError, ObjectNotFound) as error:
            raise ParamsError(f"Prefect refuses watch.cron or watch.work_pool: {error}") from error

    async def _look(self, client: "PrefectClient", deployment: UUID) -> None:
        """Take in what arrived, and see to it that a run follows; take up a run that died."""
        import httpx
        from prefect.exceptions import PrefectHTTPStatusError

        self.owed |= await asyncio.to_thread(self.incoming.take) > 0
        try:
            if self.owed:
                await client.create_flow_run_from_deployment(deployment, tags=["arrival"])
                self.owed = False
            await self._plan(client, deployment)
            if self.params.watch.work_pool:
                await self._miss(client, deployment)
            await self._take_up(client, deployment)
            self.silent = False
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            if not self.silent:
                alerts.log.warning("the Prefect server did not answer: %r; it is asked again", error)
            self.silent = True

    async def _plan(self, client: "PrefectClient", deployment: UUID) -> None:
        """Plan the next run by the schedule, under the key that the server's own plan would have: it is made once.

        The server is to do that, but Prefect 3.8.8 fails at it with SQLAlchemy 2.1.
        """
        from prefect.server.schemas.schedules import CronSchedule
        from prefect.states import Scheduled

        if self.params.watch.cron is None:
            return
        (date,) = await CronSchedule(cron=self.params.watch.cron).get_dates(1, start=datetime.now(UTC))
        if date == self.planned:
            return
        (schedule,) = (await client.read_deployment(deployment)).schedules
        await client.create_flow_run_from_deployment(
            deployment,
            state=Scheduled(scheduled_time=date),
            idempotency_key=f"scheduled {deployment} {schedule.id} {date}",
            tags=[PLANNED],
        )
        self.planned = date

    async def _miss(self, client: "PrefectClient", deployment: UUID) -> None:
        """A run that died with its worker is still alive to the server; but nobody is at work in the workspace."""
        runs = await self._runs(client, deployment, MOST)
        if self.workspace.is_held() or not any(run.state and run.state.is_running() for run in runs):
            self.alone = None
            return
        self.alone = self.alone or datetime.now(UTC)
        if datetime.now(UTC) - self.alone > LOST:
            await self._bury(client, deployment, "the worker that ran it has ended")

    async def _bury(self, client: "PrefectClient", deployment: UUID, why: str) -> None:
        """Tell the server that runs have died, which it takes for alive: those who ran them are gone."""
        from prefect.states import Crashed

        for run in await self._runs(client, deployment, 100):
            if run.state and (run.state.is_running() or run.state.is_pending()):
                await client.set_flow_run_state(run.id, Crashed(message=why), force=True)

    async def _forget_plan(self, client: "PrefectClient", deployment: UUID) -> None:
        """Take back what an earlier watch planned, perhaps by another schedule; the server does so with its own."""
        for run in await self._runs(client, deployment, 200, timedelta(days=3660)):
            planned = run.expected_start_time
            if PLANNED in run.tags and not run.auto_scheduled and planned and planned > datetime.now(UTC):
                await client.delete_flow_run(run.id)

    async def _take_up(self, client: "PrefectClient", deployment: UUID) -> None:
        """If the newest run died, start another, unless the last ones all did."""
        runs = await self._runs(client, deployment, MOST)
        if not runs or not _died(runs[0]) or runs[0].id == self.given_up:
            return
        state, last = runs[0].state, runs[0]
        if len(runs) == MOST and all(run.state and run.state.is_crashed() for run in runs):
            self.given_up = last.id
            text = f"{MOST} flow runs in a row crashed, the last with: {state and state.message}\nThe champion goes on "
            text += "answering; mend that; the next file or the schedule starts another"
        else:
            await client.create_flow_run_from_deployment(deployment, tags=["taken up"])
            if not (state and state.is_crashed()):
                return  # somebody else was at work: nothing failed
            text = f"flow run {last.name!r} ended before its time and is taken up: {state and state.message}"
        alerts.send(self.params, "failed run", text)

    async def _runs(
        self, client: "PrefectClient", deployment: UUID, most: int, ahead: timedelta = SOON
    ) -> "list[FlowRun]":
        """The deployment's runs, the newest first: those that are due, or wait a little for another, or are ahead."""
        from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
        from prefect.client.schemas.sorting import FlowRunSort

        return await client.read_flow_runs(
            deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment]}}),
            flow_run_filter=FlowRunFilter.model_validate(
                {"expected_start_time": {"before_": datetime.now(UTC) + ahead}}
            ),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=most,
        )


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _died(run: "FlowRun") -> bool:
    """Whether a run ended without having done its work, by no fault of data or code: killed, or another was at it."""
    if run.state is None or run.end_time is None:
        return False
    was_busy = run.state.is_failed() and "BusyError" in (run.state.message or "")
    waited = datetime.now(UTC) - run.end_time > timedelta(seconds=30)
    return run.state.is_crashed() or (was_busy and waited)
