"""Split: each accepted row gets a group and a side, and keeps them whatever arrives later."""

import hashlib
from itertools import accumulate, pairwise
from typing import Any

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import xxhash

from staytuned import tasks
from staytuned.data.groups import Newcomer, Older, bands_of, normalised, place, texts_on_two_sides
from staytuned.data.sides import KEPT_OUT, TEST, TRAIN, VALIDATION
from staytuned.errors import DataError
from staytuned.files import PARQUET, replacing, write_json
from staytuned.params import Params
from staytuned.pieces import Pieces, made_by, row_groups
from staytuned.progress import track
from staytuned.workspace import Workspace

SIDES = (TRAIN, VALIDATION, TEST)


def run(workspace: Workspace, params: Params) -> None:
    """Write row, group and side of every accepted row, in its order, and report sizes, bridges and leakage.

    Raises:
        DataError: a side is without rows, or a label without rows to train on.
    """
    accepted = pyarrow.parquet.read_table(workspace.accepted, columns=["row", "text", "group", "label"])
    placed = _placed(workspace, params, accepted)
    sides, labels = placed["side"], accepted["label"]
    classes = tasks.load(params).classes
    here = {side: pyarrow.compute.equal(sides, side) for side in SIDES}
    report: dict[str, Any] = {
        "rows": len(placed),
        "sides": {side: pyarrow.compute.sum(here[side]).as_py() or 0 for side in SIDES},
        "groups": len(placed["group"].unique()),
        "labels": {side: _counts(labels.filter(here[side])) if classes else {} for side in SIDES},
        "near_duplicates": pyarrow.compute.sum(placed["near"]).as_py() or 0,
        "bridging_rows_kept_out": pyarrow.compute.sum(pyarrow.compute.equal(sides, KEPT_OUT)).as_py() or 0,
        "texts_on_two_sides": texts_on_two_sides(placed["text"].to_numpy(), sides.to_numpy()),
    }
    write_json(workspace.reports / "split.json", report)
    _check(report["sides"], report["labels"], classes)
    with replacing(workspace.split) as temporary:
        split = pyarrow.table({"row": accepted["row"], "group": placed["group"], "side": sides})
        pyarrow.parquet.write_table(split, temporary, **PARQUET)


def _placed(workspace: Workspace, params: Params, accepted: pyarrow.Table) -> pyarrow.Table:
    """Group, side, whether it nearly repeats another, hash and bands of the text of each row.

    A row's place depends on the rows before it, so the key of a piece does too.
    """
    groups = row_groups(workspace.accepted)
    keys = list(accumulate((digest for digest, _ in groups), lambda before, one: _sha256(f"{before} {one}")))
    ends = list(accumulate((rows for _, rows in groups), initial=0))
    made = made_by("stages/split.py", "data/groups.py", "data/sides.py")
    with Pieces(workspace.pieces / "split", f"{made} {params.section('split')}") as pieces:
        kept = []
        for key in keys:
            table = pieces.read(key)
            if table is None:
                break
            kept.append(table)
        if len(kept) < len(keys):
            start = ends[len(kept)]
            new = _place(accepted[start:], accepted[:start], kept, params)
            for key, (first, last) in list(zip(keys, pairwise(ends), strict=True))[len(kept) :]:
                kept.append(pieces.keep(key, new[first - start : last - start]))
    return pyarrow.concat_tables(kept) if kept else _place(accepted, accepted, [], params)


def _place(new: pyarrow.Table, old: pyarrow.Table, placed: list[pyarrow.Table], params: Params) -> pyarrow.Table:
    """Place new rows beside those of the old ones that they may repeat."""
    texts = [normalised(text) for text in track(new["text"].to_pylist(), len(new), "reading texts")]
    bands = bands_of(track(texts, len(texts), "looking for near-duplicates"), params.split.near_duplicate)
    rows = map(Newcomer, new["row"].to_pylist(), texts, bands.tolist(), new["group"].to_pylist())
    found = list(place(track(rows, len(new), "splitting"), _older(old, placed, bands), params.split))
    columns = {
        "group": pyarrow.array([item.group for item in found], pyarrow.string()),
        "side": pyarrow.array([item.side for item in found], pyarrow.string()),
        "near": [item.near is not None for item in found],
        "text": numpy.array([xxhash.xxh64_intdigest(text.encode()) for text in texts], numpy.uint64),
        "bands": pyarrow.FixedSizeListArray.from_arrays(bands.ravel(), bands.shape[1]),
    }
    return pyarrow.table(columns)


def _older(old: pyarrow.Table, placed: list[pyarrow.Table], bands: numpy.ndarray) -> list[Older]:
    """The old rows that share a band with new ones and were not kept out."""
    if not placed:
        return []
    known = pyarrow.concat_tables(placed).combine_chunks()
    theirs = known["bands"].combine_chunks().flatten().to_numpy().reshape(len(known), -1)
    near = numpy.isin(theirs, bands).any(axis=1) & (known["side"].to_numpy() != KEPT_OUT)
    places = numpy.flatnonzero(near)
    texts = map(normalised, old["text"].take(places).to_pylist())
    columns = (known[name].take(places).to_pylist() for name in ("group", "side"))
    return list(map(Older, old["row"].take(places).to_pylist(), texts, theirs[places].tolist(), *columns))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _counts(labels: pyarrow.ChunkedArray) -> dict[str, int]:
    return dict(sorted((one["values"], one["counts"]) for one in labels.value_counts().to_pylist()))


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
