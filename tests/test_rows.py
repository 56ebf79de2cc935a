"""The rows that docs/how-to/rows.md shows are rows that each task takes."""

import re
from pathlib import Path

import pytest
from tiny import set_params

from staytuned import tasks
from staytuned.data.readers import Reader
from staytuned.entry_points import task_names
from staytuned.params import Params
from staytuned.start import init

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "rows.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"^`([a-z-]+)`:.*?```json\n(.*?)```", PAGE, flags=re.S | re.M))


def test_every_task_is_shown() -> None:
    assert set(SHOWN) == set(task_names())


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_its_rows_are_read_and_have_no_fault(tmp_path: Path, name: str) -> None:
    import pandas

    workspace = init(tmp_path / "workspace", name)
    if name == "token-classification":
        set_params(workspace, task__types=["person", "location"])
    params = Params.read(workspace.params)
    task = tasks.load(params)
    file = tmp_path / "rows.jsonl"
    file.write_text(SHOWN[name], encoding="utf-8")
    rows = list(Reader(file, params.ingest.columns, params.ingest.encodings, task.formats).rows())
    assert [row["problem"] for row in rows] == [None] * SHOWN[name].count("\n")
    frame = pandas.DataFrame(rows)
    frame["label"] = task.labels(frame)
    assert task.faults(frame) == [None] * len(rows)
    assert not task.labelled or frame["label"].notna().all()
