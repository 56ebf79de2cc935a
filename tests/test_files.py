"""Files and folders are whole or not there, whatever was killed before."""

import os
import threading
from pathlib import Path

import pytest

from staytuned.files import replacing_folder, write_text


def test_what_a_killed_process_left_goes_though_it_had_this_ones_number(tmp_path: Path) -> None:
    for process in (os.getpid(), 4194999):
        (tmp_path / f".folder.{process}.tmp").mkdir()
        (tmp_path / f".file.{process}.tmp").write_text("half")
    with replacing_folder(tmp_path / "folder") as folder:
        (folder / "one").write_text("whole")
    write_text(tmp_path / "file", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, fsync, replace, rename = list[str](), os.fsync, Path.replace, Path.rename

    def synced(held: int) -> None:
        seen.append(str(Path(f"/proc/self/fd/{held}").readlink()))
        fsync(held)

    def named(before: Path, after: Path) -> Path:
        seen.append("named")
        return (rename if before.is_dir() else replace)(before, after)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", named)
    monkeypatch.setattr(Path, "rename", named)
    write_text(tmp_path / "file", "whole")
    with replacing_folder(tmp_path / "folder") as folder:
        Path(folder / "one").touch()
    file, there = (str(tmp_path / f".{name}.{os.getpid()}.tmp") for name in ("file", "folder"))
    assert seen == [file, "named", str(tmp_path), f"{there}/one", there, "named", str(tmp_path)]


def test_a_folder_that_is_replaced_is_there_at_every_instant(tmp_path: Path) -> None:
    place, over, missed = tmp_path / "folder", threading.Event(), 0

    def replace(text: str) -> None:
        with replacing_folder(place) as folder:
            (folder / "one").write_text(text)

    def look() -> None:
        nonlocal missed
        while not over.is_set():
            missed += not (place / "one").exists()

    replace("first")
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    for number in range(300):
        replace(str(number))
    over.set()
    looking.join()
    assert missed == 0 and (place / "one").read_text() == "299"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
