"""The incoming folder: whole files become batches, bad ones lie beside the reason, and none is lost."""

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import make_rows, make_workspace, set_params, write_csv

from staytuned import pipeline, road
from staytuned.data import batches
from staytuned.incoming import Incoming
from staytuned.params import Params
from staytuned.workspace import Workspace

SETTLE = 0.2


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = make_workspace(tmp_path / "workspace")
    set_params(workspace, watch__settle_seconds=SETTLE)
    return workspace


@pytest.fixture
def incoming(workspace: Workspace) -> Incoming:
    return Incoming(workspace, Params.read(workspace.params))


def take(incoming: Incoming) -> int:
    """What is taken in once everything has been still for long enough."""
    incoming.settled()
    time.sleep(SETTLE * 1.5)
    return incoming.take()


def lying(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_that_is_still_written_waits_until_it_is_whole(incoming: Incoming) -> None:
    whole = write_csv(incoming.folder / ".hidden.csv", make_rows(40)).read_bytes()
    with (incoming.folder / "rows.csv").open("wb") as handle:
        for half in (whole[: len(whole) // 2], whole[len(whole) // 2 :]):
            handle.write(half)
            handle.flush()
            assert incoming.settled() == [] and incoming.take() == 0
            time.sleep(SETTLE * 0.7)
    assert incoming.take() == 0  # it has been still, but not for long enough
    assert take(incoming) == 1
    assert [batch.rows for batch in batches.manifest(incoming.workspace)] == [40]
    assert lying(incoming.folder) == [".hidden.csv", "done/rows.csv"]


def test_a_file_that_cannot_be_read_lies_beside_the_reason_and_keeps_nobody_out(
    incoming: Incoming, capsys: pytest.CaptureFixture[str]
) -> None:
    (incoming.folder / "a.xlsx").write_bytes(b"PK\x03\x04")
    (incoming.folder / "b.parquet").write_bytes(b"PAR1 no more")
    (incoming.folder / "c.csv").write_text("words\nno text column\n")
    write_csv(incoming.folder / "d.csv", make_rows(40))
    assert take(incoming) == 1
    bad = ["a.xlsx", "b.parquet", "c.csv"]
    refused = [f"refused/{name}{end}" for name in bad for end in ("", ".txt")]
    assert lying(incoming.folder) == ["done/d.csv", *refused]
    assert "lacks ingest.columns.text" in (incoming.folder / "refused" / "c.csv.txt").read_text()
    said = capsys.readouterr().err
    for name in bad:
        assert f"refused file: {name} was not ingested: " in said


def test_while_a_run_is_at_work_files_wait(incoming: Incoming) -> None:
    write_csv(incoming.folder / "rows.csv", make_rows(40))
    with incoming.workspace.hold():
        assert take(incoming) == 0
    assert lying(incoming.folder) == ["rows.csv"]
    assert incoming.take() == 1


def test_the_same_rows_again_make_no_batch_and_replace_no_file(incoming: Incoming) -> None:
    for _ in range(2):
        write_csv(incoming.folder / "rows.csv", make_rows(40))
        assert take(incoming) == 1
    assert len(batches.manifest(incoming.workspace)) == 1
    assert lying(incoming.folder) == ["done/rows-2.csv", "done/rows.csv"]


def test_what_is_no_fault_of_the_file_leaves_it_and_is_told_once(
    incoming: Incoming, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(incoming.folder / "rows.csv", make_rows(40))
    right = incoming.workspace.params.read_text()
    incoming.workspace.params.write_text(right.replace("train:", "trian:"))
    assert take(incoming) == 0 and incoming.take() == 0
    assert capsys.readouterr().err.count("trian: unknown key") == 1
    assert lying(incoming.folder) == ["rows.csv"]
    incoming.workspace.params.write_text(right)
    assert incoming.take() == 1
    write_csv(incoming.folder / "more.csv", make_rows(40, seed=1))
    incoming.workspace.params.write_text(right.replace("train:", "trian:"))
    assert take(incoming) == 0
    assert capsys.readouterr().err.count("trian: unknown key") == 1  # once more, for it is another time


def test_a_file_that_may_not_be_read_keeps_nobody_out(incoming: Incoming, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, as_it_is = write_csv(incoming.folder / "a.csv", make_rows(40)), Path.open

    def as_a_user(path: Path, *how: Any, **more: Any) -> Any:
        """Who runs the tests may be root, who may read all."""
        if path == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return as_it_is(path, *how, **more)

    monkeypatch.setattr(Path, "open", as_a_user)
    write_csv(incoming.folder / "b.csv", make_rows(40, seed=1))
    assert take(incoming) == 1
    assert lying(incoming.folder) == ["done/b.csv", "refused/a.csv", "refused/a.csv.txt"]


def test_a_file_that_is_written_again_while_it_is_read_stays_for_the_next_look(
    incoming: Incoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest, file = road.ingest, incoming.folder / "rows.csv"
    write_csv(file, make_rows(40))

    def and_meanwhile(workspace: Workspace, path: Path) -> Any:
        found = ingest(workspace, path)
        write_csv(file, make_rows(50, seed=1))
        return found

    monkeypatch.setattr(road, "ingest", and_meanwhile)
    assert take(incoming) == 0
    monkeypatch.undo()
    assert lying(incoming.folder) == ["rows.csv"]
    assert take(incoming) == 1
    assert [batch.rows for batch in batches.manifest(incoming.workspace)] == [40, 50]
    assert lying(incoming.folder) == ["done/rows.csv"]


def test_a_name_that_is_no_utf_8_keeps_nobody_out(incoming: Incoming, capsys: pytest.CaptureFixture[str]) -> None:
    good, empty = (incoming.folder / os.fsdecode(name) for name in (b"caf\xe9.csv", b"leer\xe9.csv"))
    write_csv(incoming.folder / "a.csv", make_rows(40)).rename(good)
    empty.touch()
    write_csv(incoming.folder / "b.csv", make_rows(40, seed=1))
    assert take(incoming) == 2
    assert {batch.file for batch in batches.manifest(incoming.workspace)} == {"caf\\udce9.csv", "b.csv"}
    assert "leer\\udce9.csv is empty" in (incoming.folder / "refused" / f"{empty.name}.txt").read_text()
    assert "leer\\udce9.csv was not ingested" in capsys.readouterr().err
    pipeline.run_stage(incoming.workspace, "validate")


def test_a_folder_that_was_removed_is_there_again(incoming: Incoming) -> None:
    shutil.rmtree(incoming.folder)
    assert incoming.take() == 0 and incoming.folder.is_dir()


def test_files_are_taken_in_as_they_came(incoming: Incoming) -> None:
    for name in ("b.csv", "a.csv"):
        write_csv(incoming.folder / name, make_rows(40, seed=ord(name[0])))
        time.sleep(0.02)
    assert take(incoming) == 2
    assert [batch.file for batch in batches.manifest(incoming.workspace)] == ["b.csv", "a.csv"]
