"""A workspace, a registry or a disk that is not as it should be: a clear error, and the champion goes on answering."""

import http.server
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from shell import staytuned, staytuned_in
from test_stopped import stage_at_work
from tiny import make_rows, make_workspace, set_params, write_csv

from staytuned import serve
from staytuned.data import batches
from staytuned.errors import RegistryError
from staytuned.files import read_json
from staytuned.params import Params
from staytuned.registry import pin
from staytuned.registry.alias import alias_now
from staytuned.registry.ledger import Ledger
from staytuned.registry.versions import Registry, database
from staytuned.start import init
from staytuned.workspace import Workspace

QUICKLY = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}  # seconds of silence that are enough


def refused(done: subprocess.CompletedProcess[str], status: int, *said: object) -> None:
    """The command ended with ``status`` and one clear error that says all of ``said``."""
    assert done.returncode == status, done.stdout + done.stderr
    assert [words for words in map(str, said) if words not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("error: ") == 1, done.stderr


def answers(road: Workspace) -> bool:
    return serve.predict_text(road, "a lovely lamp").endswith("version 1")


def nothing_to_do(road: Workspace) -> bool:
    done = staytuned(road, "run")
    return done.returncode == 0 and "nothing to do" in done.stdout


def test_a_typo_in_the_params_is_named_with_what_was_meant(road: Workspace) -> None:
    right = road.params.read_text()
    road.params.write_text(right.replace("  learning_rate:", "  learning_rat:").replace("seed: 7", "seed: seven"))
    refused(
        staytuned(road, "run"),
        78,
        "train.learning_rat: unknown key; did you mean 'learning_rate'?",
        "train.seed: is 'seven'",
        "evaluate.seed: is 'seven'",
    )
    assert answers(road)
    road.params.write_text(right)
    assert nothing_to_do(road)


def test_without_a_champion_or_rows_the_next_step_is_named(tmp_path: Path) -> None:
    workspace = init(tmp_path / "workspace")
    refused(staytuned(workspace, "predict", "a lamp"), 66, "there is no champion yet", "`staytuned run`")
    refused(staytuned(workspace, "predict", " "), 65, "the text is blank")
    refused(staytuned(workspace, "run"), 65, "there is no batch yet", "`staytuned ingest FILE`")


def test_an_alias_that_was_deleted_by_hand_is_set_back_by_sync(road: Workspace) -> None:
    with closing(sqlite3.connect(database(road))) as db, db:
        db.execute("DELETE FROM registered_model_aliases")
    said = "the alias 'champion' of 'tiny' names nothing, the ledger says version 1"
    refused(staytuned(road, "run"), 69, said, "`staytuned sync` sets it back")
    assert answers(road)
    assert "set back" in staytuned(road, "sync").stdout
    pin.check_alias(road, Params.read(road.params))  # what stopped the run passes now
    assert answers(road)


@pytest.mark.slow
@pytest.mark.parametrize("cut_off", [False, True], ids=["whole", "a sync before was cut off"])
def test_a_champion_that_was_deleted_by_hand_goes_on_answering_and_is_registered_again_by_sync(
    road: Workspace, cut_off: bool
) -> None:
    registry = Registry(road, Params.read(road.params))
    registry.client.delete_model_version("tiny", "1")
    if cut_off:
        registry.register_again(None, Ledger(road.ledger).entries()[0].facts["weights"])
    refused(staytuned(road, "run"), 69, "names nothing, the ledger says version 1", "`staytuned sync` sets it back")
    assert answers(road)
    assert (
        "version 1 had been deleted from the registry: registered again as version 2" in staytuned(road, "sync").stdout
    )
    assert serve.predict_text(road, "a lovely lamp").endswith("version 2")
    promoted = Ledger(road.ledger).entries()[-2].facts
    assert (promoted["before"], promoted["version"], promoted["cause"]) == (1, 2, "restored")
    assert registry.fetch(2, road.var / "fetched").exists()
    registry.client.delete_registered_model("tiny")
    said = ("version 2, the champion, was deleted from the registry with all", "Restore the registry from a copy")
    refused(staytuned(road, "sync"), 69, *said)
    assert serve.predict_text(road, "a lovely lamp").endswith("version 2")


@pytest.mark.slow
def test_a_registry_that_is_locked_for_a_minute_is_waited_for_and_the_champion_answers_meanwhile(
    road: Workspace,
) -> None:
    with closing(sqlite3.connect(database(road), isolation_level=None, check_same_thread=False)) as db:
        db.execute("DELETE FROM registered_model_aliases")  # for the command to set back: it reads, then writes
        db.execute("BEGIN EXCLUSIVE")
        threading.Timer(60, db.execute, ["COMMIT"]).start()
        begun = time.monotonic()
        assert answers(road) and time.monotonic() - begun < 30
        done = staytuned(road, "sync")
    assert done.returncode == 0 and "set back" in done.stdout, done.stdout + done.stderr
    assert time.monotonic() - begun > 55  # it was locked while the command was at work
    assert alias_now(road, Params.read(road.params), "champion") == 1 and answers(road)


@pytest.mark.slow
def test_a_run_waits_for_a_registry_that_is_locked_for_a_minute_while_it_trains(road: Workspace) -> None:
    assert staytuned(road, "ingest", write_csv(road.root / "more.csv", make_rows(200, seed=1))).returncode == 0
    locked = list[float]()

    def lock() -> None:
        with closing(sqlite3.connect(database(road), isolation_level=None, timeout=60)) as db:
            while stage_at_work(road, "train") is None:
                time.sleep(0.1)
            db.execute("BEGIN EXCLUSIVE")
            locked.append(time.monotonic())
            time.sleep(60)
            assert answers(road)
            db.execute("COMMIT")

    other = threading.Thread(target=lock)
    other.start()
    done = staytuned(road, "run")
    other.join()
    assert done.returncode == 0 and time.monotonic() - locked[0] > 60, done.stdout + done.stderr
    assert serve.predict_text(road, "a lovely lamp").endswith("version 2")
    assert alias_now(road, Params.read(road.params), "champion") == 2 and nothing_to_do(road)


def test_what_a_writer_that_was_killed_left_half_done_is_taken_back(road: Workspace) -> None:
    killed = (
        "import os, signal, sqlite3\n"
        "db = sqlite3.connect('var/mlflow.db'); db.execute('PRAGMA cache_size = 1')\n"
        "db.execute('DELETE FROM registered_model_aliases'); db.execute('UPDATE params SET value = 1')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", killed], cwd=road.root)
    assert database(road).with_name("mlflow.db-journal").stat().st_size > 0
    assert nothing_to_do(road)
    assert alias_now(road, Params.read(road.params), "champion") == 1


def test_a_damaged_registry_is_named(road: Workspace) -> None:
    whole = database(road).read_bytes()
    database(road).write_bytes(whole[: len(whole) // 2] + b"no database")
    refused(staytuned(road, "run"), 69, f"the registry at {database(road)} failed", "mend that")
    assert answers(road)
    database(road).write_bytes(whole)
    assert nothing_to_do(road)


def test_a_damaged_ledger_is_named(road: Workspace) -> None:
    whole = road.ledger.read_bytes()
    road.ledger.write_bytes(b"no ledger " * 100)
    refused(staytuned(road, "run"), 69, f"the ledger {road.ledger} cannot be used", "restore it from a copy")
    road.ledger.write_bytes(whole)
    assert answers(road) and nothing_to_do(road)


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A server that is no MLflow: it says hello to all."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<h1>hello</h1>")


class Failing(http.server.BaseHTTPRequestHandler):
    """A registry that knows its aliases and then breaks."""

    def do_GET(self) -> None:
        known = "registered-models/alias" in self.path
        self.send_response(200 if known else 501)
        self.end_headers()
        self.wfile.write(b'{"model_version": {"version": "1"}}' if known else b"out of order")

    do_POST = do_GET


@contextmanager
def served(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def addresses() -> Iterator[dict[str, str]]:
    """Where no registry answers: a closed port, a silent one, another server, no address at all."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    with socket.create_server(("127.0.0.1", 0)) as silent, served(Elsewhere) as other:
        yield {
            "closed": closed,
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "another": other,
            "none": "htp:/nowhere",
        }


def test_a_registry_that_does_not_answer_is_named(road: Workspace, addresses: dict[str, str]) -> None:
    for address in addresses.values():
        set_params(road, registry__tracking_uri=address)
        said = (f"the registry at {address} (registry.tracking_uri) does not answer", "start it, or mend the address")
        refused(staytuned(road, "run", **QUICKLY), 69, *said)
    assert answers(road)
    set_params(road, registry__tracking_uri=None)
    assert nothing_to_do(road)


def test_new_rows_wait_for_a_registry_that_does_not_answer(road: Workspace, addresses: dict[str, str]) -> None:
    set_params(road, registry__tracking_uri=addresses["closed"])
    rows = write_csv(road.root / "more.csv", make_rows(200, seed=1))
    assert staytuned(road, "ingest", rows).returncode == 0
    before = road.lock.read_bytes(), Ledger(road.ledger).entries()
    refused(staytuned(road, "run", **QUICKLY), 69, addresses["closed"], "`staytuned run` goes on from here")
    assert (road.lock.read_bytes(), Ledger(road.ledger).entries()) == before
    assert answers(road)


def test_a_registry_that_breaks_after_its_first_answer_is_a_registry_error(road: Workspace) -> None:
    with served(Failing) as address:
        set_params(road, registry__tracking_uri=address)
        with pytest.raises(RegistryError, match=f"the registry at {address} failed: .*; mend that") as caught:
            Registry(road, Params.read(road.params))
    assert caught.value.exit_status == 69
    assert answers(road)


def test_the_road_runs_where_there_is_no_git(finished_road: Workspace) -> None:
    assert not any((folder / ".git").exists() for folder in (finished_road.root, *finished_road.root.parents))
    assert "no_scm = true" in (finished_road.root / ".dvc" / "config.local").read_text()
    (lineage,) = (finished_road.var / "mlflow-artifacts").rglob("lineage.json")
    record = read_json(lineage)
    assert (record["commit"], record["dirty"]) == (None, False)


@pytest.mark.parametrize("room", [4, 40], ids=["for the rows", "for the pinned champion"])
def test_an_ingest_that_finds_the_disk_full_can_be_done_again(road: Workspace, room: int) -> None:
    rows = write_csv(road.root / "more.csv", make_rows(600, seed=1))
    refused(staytuned_in(room, road, "ingest", rows), 74, "no room to write at", str(road.root), "free some space")
    assert list(road.root.rglob("*.tmp")) == []
    batches.check_manifest(road)
    assert answers(road)
    again = staytuned(road, "ingest", rows)
    assert again.returncode == 0, again.stderr
    assert [batch.rows for batch in batches.manifest(road)] == [600, 600]
    status = subprocess.run([sys.executable, "-m", "dvc", "status"], cwd=road.root, capture_output=True, text=True)
    assert status.returncode == 0 and "data/batches.dvc" not in status.stdout, status.stdout + status.stderr


def test_a_base_model_that_does_not_fit_the_task_is_refused_before_any_work(tmp_path: Path) -> None:
    road = make_workspace(tmp_path / "road")
    rows = write_csv(tmp_path / "rows.csv", make_rows(60))
    assert staytuned(road, "ingest", rows).returncode == 0
    set_params(road, encode__max_tokens=513)
    refused(staytuned(road, "run"), 78, "encode.max_tokens is 513, but 'tiny' (model.base) reads at most 512")
    config = road.root / "base-models" / "tiny" / "config.json"
    facts = read_json(config) | {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    config.write_text(json.dumps(facts))
    refused(staytuned(road, "run"), 78, "holds a T5ForConditionalGeneration", "'text-classification' needs an encoder")
    assert not road.accepted.exists()


def test_labels_that_the_champion_did_not_learn_are_refused_before_any_work(road: Workspace) -> None:
    accepted = road.accepted.stat().st_mtime_ns
    set_params(road, task__labels=["positive", "neutral", "negative"])
    refused(staytuned(road, "run"), 78, "task is not what the champion learned", "set it back, or make a workspace")
    assert road.accepted.stat().st_mtime_ns == accepted
    assert answers(road)
