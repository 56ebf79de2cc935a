"""The retraining flow: the stages of dvc.yaml, then the release. Stage order is written in dvc.yaml alone."""

import os
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from staytuned import alerts, champion, pipeline, road, situation
from staytuned.data.sides import TEST
from staytuned.drift.triggers import Answer
from staytuned.errors import BusyError, RegistryError, StageError
from staytuned.files import read_json
from staytuned.params import Params
from staytuned.processes import WATCH, die_with_watch
from staytuned.progress import busy
from staytuned.registry import pin
from staytuned.registry.evidence import too_few
from staytuned.registry.release import Release, finished, release
from staytuned.registry.reload import Reload, reloader
from staytuned.registry.tracking import Tracker
from staytuned.registry.versions import Registry
from staytuned.workspace import Workspace

MAY_PASS = {BusyError.exit_status, RegistryError.exit_status}


def may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Whether trying again makes sense: for a busy workspace or a silent registry, not for bad data or a bug."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, StageError):
        return error.exit_status in MAY_PASS
    return isinstance(error, (BusyError, RegistryError))


@task(
    task_run_name="{stage}",
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=may_pass,
    cache_policy=NO_CACHE,
)
def run_stage(workspace: Path, stage: str) -> bool:
    """Run one stage through DVC; False if it was up to date."""
    return pipeline.run_stage(Workspace(workspace), stage)


@task(
    task_run_name="release",
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=may_pass,
    cache_policy=NO_CACHE,
)
def run_release(workspace: Path, run_id: str, reload: Reload) -> Release:
    """Decide, register, promote."""
    space = Workspace(workspace)
    params = Params.read(space.params)
    return release(space, params, Registry(space, params), run_id, reload)


@flow(name="retrain", flow_run_name="retrain {workspace}", persist_result=False)
def retrain(workspace: str = ".", only_if_needed: bool = False) -> Release | Answer:
    """From the batches in the workspace to a decision, and to a champion if the gate promotes.

    With ``only_if_needed``, training waits until a trigger of the params asks for it, and so does all that follows;
    the answer is then what is returned.
    """
    die_with_watch()
    space = Workspace.find(Path(workspace))
    params = Params.read(space.params)
    with alerts.on_failure(params), space.hold():
        pin.check_alias(space, params)
        with busy("opening the registry"):
            registry = Registry(space, params)
        ended = pin.recover(space, registry)
        if ended:
            champion.tell(params, ended)
        already = finished(space, params)
        if already:
            return already
        pin.sync(space, params)
        pin.check_comparable(space, params)
        if only_if_needed:
            answer = up_to_the_question(space, params)
            if answer and not answer.retrain:
                if WATCH in os.environ:  # nobody else tells there
                    print(f"no training is due: {'; '.join([*answer.reasons, *answer.waiting])}", flush=True)
                return answer
            already = None if answer else finished(space, params)  # what was new may have been set aside
            if already:
                return already
        with registry.run() as run_id:
            tracker = Tracker(space, params, registry, run_id)
            tracker.start()
            *stages, last = pipeline.stage_order(space)
            for stage in stages:
                if stage == situation.DEAR:
                    foretell(space, params)
                    if not only_if_needed:  # else the question told
                        situation.tell_drift(space, params)
                with tracker.following():
                    run_stage(space.root, stage)
            with reloader(registry, params.train.threads) as reload:  # its process imports while the last stage runs
                with tracker.following():
                    run_stage(space.root, last)
                tracker.evidence()
                outcome = run_release(space.root, run_id, reload)
            tracker.finish({"outcome": outcome.decision.outcome, "version": outcome.version, "key": outcome.key})
        tell(params, outcome)
    return outcome


def up_to_the_question(workspace: Workspace, params: Params) -> Answer | None:
    """Run the stages that training builds on, then ask; None where nothing would be trained: the road goes on.

    Nobody is there to ask about new batches with too many bad rows: they are set aside, and the others go on.
    """
    late = pipeline.stages_from(workspace, situation.DEAR)
    for stage in pipeline.stage_order(workspace):
        if stage in late:
            continue
        try:
            run_stage(workspace.root, stage)
        except StageError:
            if not road.set_aside(workspace, params):
                raise
            run_stage(workspace.root, stage)
    return situation.ask(workspace, params) if situation.DEAR in pipeline.stale(workspace) else None


def foretell(workspace: Workspace, params: Params) -> None:
    """Say before the training what will block it, whatever it learns."""
    rows = read_json(workspace.reports / "split.json")["sides"][TEST]
    for line in too_few({"rows": rows}, params.gate):
        print(f"the gate will block what is trained now: {line}")


def tell(params: Params, outcome: Release) -> None:
    """Send word of a promotion or a blocked gate."""
    reasons = "\n".join(outcome.decision.reasons)
    if outcome.moved:
        text = f"version {outcome.version} is champion; nothing needs to be done\n{reasons}"
        alerts.send(params, "promotion", text)
    elif outcome.decision.outcome == "BLOCK":
        text = "the champion, if any, stays; look at reports/evaluation/report.html, mend data or params, run again"
        alerts.send(params, "blocked", f"the gate blocked the candidate; {text}\n{reasons}")
    elif WATCH in os.environ:  # else the table tells
        print(f"{outcome.decision.outcome}: the champion stays; reports/decision.html says why", flush=True)
