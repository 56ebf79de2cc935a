"""Alerts reach a real receiver, cost a run at most seconds, and show no address to anyone."""

import runpy
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from receiver import Receiver

from staytuned import alerts
from staytuned.errors import BusyError, RegistryError
from staytuned.files import write_json
from staytuned.params import Params
from staytuned.processes import WATCH
from staytuned.registry.gate import Decision, Outcome
from staytuned.registry.release import Release
from staytuned.workspace import Workspace

OURS = Path(__file__).parents[1] / "params.yaml"


def params(*urls: str) -> Params:
    ours = Params.read(OURS)
    return ours.model_copy(update={"alerts": ours.alerts.model_copy(update={"urls": list(urls)})})


@pytest.fixture(scope="module")
def retrain() -> dict[str, Any]:
    """The flow's functions, by name."""
    return runpy.run_path(str(OURS.parent / "pipelines" / "retrain.py"))


def test_what_will_block_is_said_before_the_training(
    retrain: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path)
    for rows, said in (
        (99, "the gate will block what is trained now: 99 test rows, under gate.min_test_rows"),
        (100, ""),
    ):
        write_json(workspace.reports / "split.json", {"sides": {"test": rows}})
        retrain["foretell"](workspace, params())
        assert capsys.readouterr().out.startswith(said) if said else capsys.readouterr().out == ""


def test_an_alert_reaches_every_receiver_and_the_log(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(alerts.FURTHER, f"{receiver.url}/one {receiver.url}/two")
    alerts.send(params(f"{receiver.url}/three"), "drift", "macro-F1 fell\nlook at reports/drift")
    assert [(got["title"], got["message"]) for got in receiver.got] == [
        ("staytuned, sentiment: drift", "macro-F1 fell\nlook at reports/drift")
    ] * 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("staytuned, drift: macro-F1 fell; look at reports/drift")


def test_without_a_receiver_there_is_a_line_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    alerts.send(params(), "promotion", "version 2 is champion")
    assert "promotion: version 2 is champion" in capsys.readouterr().err


def test_receivers_that_fail_delay_nothing_and_their_addresses_are_not_shown(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        secret = f"json://user:hunter2@127.0.0.1:{silent.getsockname()[1]}/token"
        monkeypatch.setenv(alerts.FURTHER, f"nothing://hunter2/ {secret}")
        begun = time.monotonic()
        alerts.send(params(f"{receiver.url}/closed/hunter2", f"{receiver.url}/open"), "failed run", "no room")
        assert time.monotonic() - begun < alerts.PATIENCE + 2
    assert len(receiver.got) == 2  # the others did not keep the fourth from its alert
    said = capfd.readouterr().err
    for where in ("alerts.urls, place 0", "STAYTUNED_ALERTS, place 0", "STAYTUNED_ALERTS, place 1"):
        assert f"an alert did not reach its receiver ({where})" in said
    assert "alerts.urls, place 1" not in said
    assert "hunter2" not in said


def test_a_failure_is_told_and_goes_on(receiver: Receiver) -> None:
    with pytest.raises(RegistryError), alerts.on_failure(params(receiver.url)):
        raise RegistryError("the DVC remote could not be written")
    (got,) = receiver.got
    assert got["title"] == "staytuned, sentiment: failed run"
    assert got["message"].startswith(
        "the DVC remote could not be written\nA champion, if there is one, goes on answering"
    )


@pytest.mark.parametrize(
    ("outcome", "title", "said"),
    [
        ("PROMOTE", "promotion", "version 4 is champion; nothing needs to be done\nmacro-F1 +0.020"),
        ("BLOCK", "blocked", "the gate blocked the candidate; the champion, if any, stays"),
        ("HOLD", None, None),
    ],
)
def test_a_promotion_and_a_blocked_gate_are_told_with_their_reasons(
    retrain: dict[str, Any], receiver: Receiver, outcome: Outcome, title: str | None, said: str | None
) -> None:
    retrain["tell"](
        params(receiver.url),
        Release("key", Decision(outcome, ["macro-F1 +0.020"]), 4, "champion", outcome == "PROMOTE"),
    )
    assert [got["title"] for got in receiver.got] == ([f"staytuned, sentiment: {title}"] if title else [])
    assert all(got["message"].startswith(said) and "macro-F1 +0.020" in got["message"] for got in receiver.got)


def test_a_watch_says_that_the_champion_stays(
    retrain: dict[str, Any], receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(WATCH, "1")
    retrain["tell"](params(receiver.url), Release("key", Decision("HOLD", ["macro-F1 +0.020"]), 4, "challenger"))
    assert "HOLD: the champion stays; reports/decision.html" in capsys.readouterr().out and receiver.got == []


def test_a_failure_within_a_failure_is_told_once(receiver: Receiver) -> None:
    asked = params(receiver.url)
    with pytest.raises(RegistryError), alerts.on_failure(asked), alerts.on_failure(asked):
        raise RegistryError("the DVC remote could not be written")
    assert len(receiver.got) == 1


@pytest.mark.parametrize("error", [BusyError("another run"), KeyboardInterrupt()], ids=["busy", "Ctrl-C"])
def test_what_is_no_failure_is_not_told(receiver: Receiver, error: BaseException) -> None:
    with pytest.raises(type(error)), alerts.on_failure(params(receiver.url)):
        raise error
    assert receiver.got == []


def test_addresses_stand_in_no_record_of_the_params() -> None:
    secret = params("json://hunter2/")
    assert "hunter2" not in secret.model_dump_json() + repr(secret) + str(secret.section("alerts"))
