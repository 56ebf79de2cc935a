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
from staytuned.data.groups import Newcomer, Older, Signed, bands_of, place, texts_on_two_sides
from staytuned.data.sides import KEPT_OUT, TEST, TRAIN, VALIDATION, normalised
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
    task = tasks.load(params)
    of_texts = [name for name in ("text", "text_pair") if name in task.columns]
    accepted = pyarrow.parquet.read_table(workspace.accepted, columns=["row", *of_texts, "group", "label"])
    placed = _placed(workspace, params, accepted)
    sides, labels = placed["side"], accepted["label"]
    classes = task.classes
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
    with Pieces(workspace.pieces / "split", f"{made} {params.section('split')} {accepted.column_names}") as pieces:
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
    texts = _texts(new)
    bands = numpy.hstack(
        [bands_of(track(kind, len(kind), "looking for near-duplicates"), params.split.near_duplicate) for kind in texts]
    )
    signed = _signed(texts, bands)
    rows = [
        Newcomer(row, text.text, text.bands, group, pair)
        for row, group, (text, pair) in zip(new["row"].to_pylist(), new["group"].to_pylist(), signed, strict=True)
    ]
    found = list(place(track(rows, len(new), "splitting"), _older(old, placed, bands), params.split))
    columns = {
        "group": pyarrow.array([item.group for item in found], pyarrow.string()),
        "side": pyarrow.array([item.side for item in found], pyarrow.string()),
        "near": [item.near is not None for item in found],
        "text": numpy.array([xxhash.xxh64_intdigest(text.encode()) for text in texts[0]], numpy.uint64),
        "bands": pyarrow.FixedSizeListArray.from_arrays(bands.ravel(), bands.shape[1]),
    }
    return pyarrow.table(columns)


def _texts(rows: pyarrow.Table) -> list[list[str]]:
    """The normalised text of each row and, of pairs, both of its texts, in the order of the alphabet."""
    texts = [normalised(text) for text in track(rows["text"].to_pylist(), len(rows), "reading texts")]
    if "text_pair" not in rows.column_names:
        return [texts]
    others = [normalised(text) for text in rows["text_pair"].to_pylist()]
    return [texts, ["\n".join(sorted(pair)) for pair in zip(texts, others, strict=True)]]


def _signed(texts: list[list[str]], bands: numpy.ndarray) -> list[tuple[Signed, Signed | None]]:
    """Each row's text with its bands, and its pair with those."""
    first, *others = numpy.hsplit(bands, len(texts))
    pairs: list[Signed | None] = [None] * len(first)
    if others:
        pairs = list(map(Signed, texts[1], others[0].tolist()))
    return list(zip(map(Signed, texts[0], first.tolist()), pairs, strict=True))


def _older(old: pyarrow.Table, placed: list[pyarrow.Table], bands: numpy.ndarray) -> list[Older]:
    """The old rows that share a band with new ones and were not kept out."""
    if not placed:
        return []
    known = pyarrow.concat_tables(placed).combine_chunks()
    theirs = known["bands"].combine_chunks().flatten().to_numpy().reshape(len(known), -1)
    near = numpy.isin(theirs, bands).any(axis=1) & (known["side"].to_numpy() != KEPT_OUT)
    places = numpy.flatnonzero(near)
    signed = _signed(_texts(old.take(places)), theirs[places])
    columns = (known[name].take(places).to_pylist() for name in ("group", "side"))
    rows = zip(old["row"].take(places).to_pylist(), *columns, signed, strict=True)
    return [Older(row, text.text, text.bands, group, side, pair) for row, group, side, (text, pair) in rows]


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
