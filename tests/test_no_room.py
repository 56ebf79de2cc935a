"""A full disk at what is written besides the stages: nothing is half done, and the next try works."""

import sys
from pathlib import Path

import pyarrow
import pytest
from receiver import Receiver
from shell import no_room
from test_alerts import params as alerted
from test_incoming import incoming, lying, take, workspace  # noqa: F401 - fixtures
from tiny import make_rows, write_csv

from staytuned import alerts
from staytuned.data import batches
from staytuned.errors import RegistryError, is_full
from staytuned.files import replacing, write_text
from staytuned.incoming import Incoming
from staytuned.pieces import read_piece, write_piece
from staytuned.registry.ledger import DECISION, Ledger


def test_a_piece_is_whole_or_as_it_was(tmp_path: Path) -> None:
    write_piece(tmp_path / "piece", "rows", pyarrow.table({"values": [0, 1, 2]}))
    with no_room(), pytest.raises(OSError) as caught:
        write_piece(tmp_path / "piece", "rows", pyarrow.table({"values": list(range(9))}))
    assert is_full(caught.value) and [path.name for path in tmp_path.iterdir()] == ["piece"]
    found = read_piece(tmp_path / "piece", "rows")
    assert found is not None and found["values"].to_pylist() == [0, 1, 2]


def test_the_ledger_keeps_what_it_has_and_goes_on(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    first = ledger.append(DECISION, key="a")
    with no_room(), pytest.raises(RegistryError, match="free some space"):
        ledger.append(DECISION, key="b")
    assert ledger.entries() == [first]
    assert ledger.append(DECISION, key="b").number == 2


def test_a_file_that_arrives_waits_until_there_is_room_and_that_is_told_once(
    incoming: Incoming,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_csv(incoming.folder / "a.csv", make_rows(40))
    (incoming.folder / "b.xlsx").write_bytes(b"PK\x03\x04")
    with no_room():
        assert take(incoming) == 0 and incoming.take() == 0
    assert lying(incoming.folder) == ["a.csv", "b.xlsx"]
    assert capsys.readouterr().err.count("no room to write at") == 1
    assert incoming.take() == 1
    assert lying(incoming.folder) == ["done/a.csv", "refused/b.xlsx", "refused/b.xlsx.txt"]


def test_a_file_that_is_in_but_cannot_be_moved_away_does_not_end_the_watch(
    incoming: Incoming,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_csv(incoming.folder / "a.csv", make_rows(40))
    (incoming.folder / "done").symlink_to("nowhere/at/all")
    assert take(incoming) == 0
    assert "failed run" in capsys.readouterr().err
    (incoming.folder / "done").unlink()
    assert incoming.take() == 1 and len(batches.manifest(incoming.workspace)) == 1


def test_an_alert_goes_out_though_its_line_finds_no_room_in_the_log(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        with no_room():
            alerts.send(alerted(receiver.url), "failed run", "the disk is full")
        monkeypatch.undo()
    assert [got["message"] for got in receiver.got] == ["the disk is full"]


def test_what_a_killed_process_left_half_written_goes_at_the_next_writing(tmp_path: Path) -> None:
    (tmp_path / ".rows.csv.4194999.tmp").write_text("half a r")  # above the largest number of a process
    with replacing(tmp_path / "rows.csv") as other:  # at the same time, by a process that is alive
        other.write_text("a row")
        write_text(tmp_path / "more.csv", "rows")
        assert other.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["more.csv", "rows.csv"]
