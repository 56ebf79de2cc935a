"""Progress where nobody watches: a log is told of long work, in lines."""

import time

import pytest

from staytuned import progress


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.05)
    monkeypatch.setattr(progress, "LONG", 0.3)


def test_a_log_is_told_how_far_long_work_is(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar() as display:
        shown = display.add_task("training", total=3)
        for _ in range(3):
            time.sleep(0.06)
            display.advance(shown)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["  training: 1 of 3", "  training: 2 of 3", "  training: 3 of 3"]


def test_a_log_is_told_of_work_whose_length_is_not_known_only_if_it_takes_long(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress.busy("a moment"):
        pass
    with progress.busy("a while"):
        time.sleep(0.6)
    assert capsys.readouterr().err == "  a while\n"
