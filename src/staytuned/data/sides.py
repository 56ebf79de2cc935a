"""The sides of the split, and the rows that a model was trained on."""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
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
TRAINED_ON = "trained_on.u64"  # of a model's folder: hashes of all that it learned from or was stopped by


def side_of(group: str, split: Split) -> str:
    """The side that the hash of a group's name decides, in the proportions of the params."""
    share = _share(f"{split.salt} {group}")
    if share < split.test:
        return TEST
    return VALIDATION if share < split.test + split.validation else TRAIN


def _share(name: str) -> float:
    """A number from 0 up to 1 that a hash draws."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def normalised(text: str) -> str:
    """Text without case, spacing, punctuation and compatibility forms; letters, marks, digits and emoji stay."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(c for c in folded if unicodedata.category(c)[0] in "LMNS" or c == "\N{ZERO WIDTH JOINER}")
    return kept or folded


def row_hashes(rows: pandas.DataFrame) -> numpy.ndarray:
    """64-bit hashes of rows, sorted, as a model carries them to say what it was trained on: of ids, groups and texts.

    The same text may come again under another id, and a group go on or, with another salt, stand on another side.
    """
    return numpy.unique(numpy.concatenate([_hashes(names) for names in _names(rows)]))


def _names(rows: pandas.DataFrame) -> Iterator[list[str]]:
    """Of each row, what it is called, and what it shares with others: its group, its texts."""
    yield rows["row"].astype(str).tolist()
    yield [f"group {group}" for group in rows["group"]]
    pairs = zip(rows["text"], rows["text_pair"], strict=True)
    yield [f"text {' '.join(normalised(text) for text in pair if isinstance(text, str))}" for pair in pairs]


def _hashes(names: Iterable[str]) -> numpy.ndarray:
    return numpy.fromiter((xxhash.xxh64_intdigest(name.encode()) for name in names), dtype="<u8")


def are_new(ids: Iterable[str], folder: Path) -> numpy.ndarray:
    """Which rows the model of this folder was not trained on, nor what it was made of, by their ids; shape (rows,)."""
    found: numpy.ndarray = ~numpy.isin(_hashes(ids), _trained_on(folder))
    return found


def unseen_by(rows: pandas.DataFrame, folders: Iterable[Path]) -> numpy.ndarray:
    """Which rows no model of these folders was trained on, nor what it was made of, nor on their groups or texts."""
    seen = numpy.concatenate([numpy.empty(0, "<u8"), *map(_trained_on, folders)])
    is_seen = [numpy.isin(_hashes(names), seen) for names in _names(rows)]
    found: numpy.ndarray = ~numpy.logical_or.reduce(is_seen)
    return found


def _trained_on(folder: Path) -> numpy.ndarray:
    return numpy.fromfile(folder / TRAINED_ON, dtype="<u8")


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
        rows: With ``row``, ``source`` and ``lot``.
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
    """The number of each row's lot: of up to 16 rows of one side and source of a batch, asked about together.

    Groups stand in the order in which they end, so that the newest whole groups are in few lots.

    Args:
        rows: All of one side or of several, as they arrived, with ``batch``, ``side``, ``source`` and ``group``.
    """
    place = pandas.Series(numpy.arange(len(rows)), rows.index)
    end = place.groupby([rows["batch"], rows["group"]]).transform("max")
    ordered = rows.iloc[numpy.lexsort((place, end))]
    part = ordered.groupby(["batch", "side", "source"]).cumcount() // LOT
    return ordered.groupby(["batch", "side", "source", part]).ngroup().reindex(rows.index).rename("lot")


def with_lots(rows: pandas.DataFrame, side: str) -> pandas.DataFrame:
    """The rows of one side, in the order of arrival, with the number of each one's ``lot``."""
    return rows.assign(lot=lots(rows.assign(side=side)))
