"""What a model says of a text, kept in pieces: asked for once for each distinct text."""

import hashlib
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from pathlib import Path

import numpy
import pyarrow

from staytuned.pieces import read_piece, write_piece

NAME = 16  # bytes of a text's hash
PART = 1000  # texts of a piece: so many are asked about again where the work is cut off


def name_of(text: numpy.ndarray) -> bytes:
    """The name of a text: a hash of its numbers."""
    return hashlib.blake2b(text.astype("<i4").tobytes(), digest_size=NAME).digest()


def said_of_texts(
    folder: Path | None,
    key: str,
    texts: dict[bytes, numpy.ndarray],
    ask: Callable[[list[numpy.ndarray]], Iterable[numpy.ndarray]],
) -> dict[bytes, numpy.ndarray]:
    """What a model says of each text, float32 of shape (numbers,).

    Args:
        folder: Of these pieces alone; None: nothing is kept. Pieces of another key, and torn ones, go.
        key: What it depends on beside the text, in any words.
        texts: Their numbers, by their names.
        ask: What the model says of texts, in their order; it must not depend on which of them are asked about together.
            Those of like length are.
    """
    found = _kept(folder, key, texts.keys()) if folder else {}
    missing = sorted(texts.keys() - found.keys(), key=lambda name: (-texts[name].size, name))
    if not missing:
        return found
    said = zip(missing, ask([texts[name] for name in missing]), strict=True)
    while part := dict(islice(said, PART)):
        if folder:
            _keep(folder, key, part)
        found |= part
    return found


def _keep(folder: Path, key: str, part: dict[bytes, numpy.ndarray]) -> None:
    ends = numpy.cumsum([0, *map(len, part.values())])
    numbers = pyarrow.LargeListArray.from_arrays(ends, numpy.concatenate([*part.values()]))
    columns = {"name": pyarrow.array([*part], pyarrow.binary(NAME)), "numbers": numbers}
    write_piece(folder / f"{hashlib.blake2b(b''.join(part)).hexdigest()[:32]}.arrow", key, pyarrow.table(columns))


def _kept(folder: Path, key: str, wanted: Collection[bytes]) -> dict[bytes, numpy.ndarray]:
    """What is kept of some texts, by their names."""
    found = dict[bytes, numpy.ndarray]()
    for piece in sorted(folder.glob("*.arrow")):
        table = read_piece(piece, key)
        if table is None:
            piece.unlink()
            continue
        lists = table["numbers"].combine_chunks()
        ends, numbers = lists.offsets.to_numpy(), lists.values.to_numpy()
        for name, start, end in zip(table["name"].to_pylist(), ends, ends[1:], strict=False):
            if name in wanted:
                found[name] = numbers[start:end].copy()  # or it would keep the whole piece in memory
    return found
