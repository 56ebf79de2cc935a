"""The sides of the split, and the rows that a model was trained on."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy
import pandas
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import xxhash

from staytuned.errors import MissingError
from staytuned.sections import Split
from staytuned.workspace import Workspace

TRAIN, VALIDATION, TEST, KEPT_OUT = "train", "validation", "test", "kept out"
LOT = 16  # rows: of fewer each takes longer, of more there are more that nobody wanted
TRAINED_ON = "trained_on.u64"  # of a model's folder: hashes of the rows that it learned from or was stopped by


def side_of(group: str, split: Split) -> str:
    """The side that the hash of a group's name decides, in the proportions of the params."""
    share = _share(f"{split.salt} {group}")
    if share < split.test:
        return TEST
    return VALIDATION if share < split.test + split.validation else TRAIN


def _share(name: str) -> float:
    """A number from 0 up to 1 that a hash draws."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def row_hashes(rows: Iterable[str]) -> numpy.ndarray:
    """64-bit hashes of row ids, sorted, as a model carries them to say what it was trained on."""
    return numpy.sort(_hashes(rows))


def _hashes(rows: Iterable[str]) -> numpy.ndarray:
    return numpy.fromiter((xxhash.xxh64_intdigest(row.encode()) for row in rows), dtype="<u8")


def unseen_by(rows: Iterable[str], folders: Iterable[Path]) -> numpy.ndarray:
    """Which rows no model of these folders was trained on, nor what it was made of; shape (rows,)."""
    seen = [numpy.empty(0, "<u8"), *(numpy.fromfile(folder / TRAINED_ON, dtype="<u8") for folder in folders)]
    found: numpy.ndarray = ~numpy.isin(_hashes(rows), numpy.concatenate(seen))
    return found


def check_split(workspace: Workspace) -> None:
    """There must be accepted rows with a split of these very rows, as the last run left them.

    Raises:
        MissingError: there are none yet, or a run is between the two.
    """
    for path in (workspace.accepted, workspace.split):
        if not path.is_file():
            raise MissingError(f"there is no {path} yet; `staytuned run` makes it")
    accepted, split = (
        pyarrow.parquet.read_table(path, columns=["row"]) for path in (workspace.accepted, workspace.split)
    )
    if not accepted.equals(split):
        raise MissingError(f"{workspace.split} is of other rows than {workspace.accepted}; `staytuned run` mends that")


def rows_of(workspace: Workspace, side: str) -> pandas.DataFrame:
    """The accepted rows of a side, in the order in which they are encoded; ``group`` is that of the split."""
    rows = pyarrow.parquet.read_table(workspace.accepted)
    split = pyarrow.parquet.read_table(workspace.split, columns=["side", "group"])
    here = pyarrow.compute.equal(split["side"], side)
    frame: pandas.DataFrame = rows.filter(here).to_pandas()
    return frame.assign(group=split.filter(here)["group"].to_pandas())


def that_judge(rows: pandas.DataFrame, most: int | None) -> numpy.ndarray:
    """Which test rows judge, shape (rows,): of a source that has more than ``most``, those of lots with low hashes.

    The bound on hashes is halved as often as needed, while that leaves any. So they are a sample of all batches, of
    many lots half as many as may be at least, and between two halvings new rows join them and none leaves: what a model
    was asked once, by drift too, is of use again.

    Args:
        rows: With ``row``, ``source`` and ``lot``; a lot counts for the source of its first row.
        most: Rows of each source; None: all.
    """
    found = numpy.ones(len(rows), bool)
    if most is None or rows.empty:
        return found
    of_lot = rows.groupby("lot")[["row", "source"]].transform("first")
    shares = of_lot["row"].map({row: _share(f"judges {row}") for row in of_lot["row"].unique()}).to_numpy()
    for source in of_lot["source"].unique():
        here = (of_lot["source"] == source).to_numpy()
        bound = 1.0
        while (shares[here] < bound).sum() > most and (shares[here] < bound / 2).any():
            bound /= 2
        found[here] = shares[here] < bound
    return found


def lots(rows: pandas.DataFrame) -> pandas.Series:
    """The number of each row's lot: of up to 16 rows of one side of a batch, that a model is asked about together.

    Groups stand in the order in which they end, so that the newest whole groups are in few lots.

    Args:
        rows: All of one side or of several, in the order of arrival, with ``batch``, ``side`` and ``group``.
    """
    place = pandas.Series(numpy.arange(len(rows)), rows.index)
    end = place.groupby([rows["batch"], rows["group"]]).transform("max")
    ordered = rows.iloc[numpy.lexsort((place, end))]
    part = ordered.groupby(["batch", "side"]).cumcount() // LOT
    return ordered.groupby(["batch", "side", part]).ngroup().reindex(rows.index).rename("lot")


def with_lots(rows: pandas.DataFrame, side: str) -> pandas.DataFrame:
    """The rows of one side, in the order of arrival, with the number of each one's ``lot``."""
    return rows.assign(lot=lots(rows.assign(side=side)))
