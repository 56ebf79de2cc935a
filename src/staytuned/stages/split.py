"""Split: each accepted row gets a group and a side, and keeps them whatever arrives later."""

from collections import Counter
from typing import Any

import pyarrow
import pyarrow.parquet

from staytuned import tasks
from staytuned.data.groups import place, shared_texts
from staytuned.data.sides import KEPT_OUT, TEST, TRAIN, VALIDATION
from staytuned.errors import DataError
from staytuned.files import PARQUET, replacing, write_json
from staytuned.params import Params
from staytuned.progress import track
from staytuned.workspace import Workspace


def run(workspace: Workspace, params: Params) -> None:
    """Write row, group and side of every accepted row, in its order, and report sizes, bridges and leakage.

    Raises:
        DataError: a side is without rows, or a label without rows to train on.
    """
    table = pyarrow.parquet.read_table(workspace.accepted, columns=["row", "text", "group", "label"])
    rows, texts, groups, labels = (table[name].to_pylist() for name in ("row", "text", "group", "label"))
    pairs = zip(rows, texts, groups, strict=True)
    placed = list(place(track(pairs, len(rows), "splitting"), params.split))
    sides = [item.side for item in placed]
    classes = tasks.load(params).classes
    report: dict[str, Any] = {
        "rows": len(rows),
        "sides": {side: sides.count(side) for side in (TRAIN, VALIDATION, TEST)},
        "groups": len({item.group for item in placed}),
        "labels": {side: _labels(labels, sides, side) if classes else {} for side in (TRAIN, VALIDATION, TEST)},
        "near_duplicates": sum(item.near is not None for item in placed),
        "bridging_rows_kept_out": sides.count(KEPT_OUT),
        "texts_on_two_sides": shared_texts(
            (text, side) for text, side in zip(texts, sides, strict=True) if side != KEPT_OUT
        ),
    }
    write_json(workspace.reports / "split.json", report)
    _check(report["sides"], report["labels"], classes)
    with replacing(workspace.split) as temporary:
        split = pyarrow.table({"row": rows, "group": [item.group for item in placed], "side": sides})
        pyarrow.parquet.write_table(split, temporary, **PARQUET)


def _labels(labels: list[str], sides: list[str], wanted: str) -> dict[str, int]:
    return dict(sorted(Counter(label for label, side in zip(labels, sides, strict=True) if side == wanted).items()))


def _check(sides: dict[str, int], labels: dict[str, dict[str, int]], wanted: list[str]) -> None:
    """Stop before training on rows that cannot teach the task."""
    rows = sum(sides.values())
    if rows < len(wanted):
        raise DataError(f"{rows} accepted row(s) for {len(wanted)} labels; ingest more rows")
    found = sorted(set().union(*labels.values()))
    if wanted and len(found) < 2:
        raise DataError(f"every row has the label {found[0]!r}; ingest rows with other labels of {wanted}")
    for side, count in sides.items():
        if not count:
            raise DataError(f"no row is on the {side} side; ingest more groups, or raise split.{side}")
    missing = [label for label in wanted if label not in labels[TRAIN]]
    if missing:
        raise DataError(f"no row to train on has the label {missing}; ingest some, or take it out of task.labels")
