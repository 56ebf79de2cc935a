"""The encode stage's wall time over that of the tokenizer's own ``encode_batch`` on the same rows.

usage: python benchmarks/encode.py [ROWS] [ROUNDS]

The rows are the example's texts, of all four sources, repeated with their words rotated. ``encode_batch`` gets them
as lists in memory, 10,000 at a time: with all in one call it is slower, for want of memory. The stage reads them from
Parquet, and writes and syncs its files; it is called in this process, after the same imports.
"""

import csv
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
from measure import in_turn, meets, ratios, spread
from tokenizers import Tokenizer

from staytuned.data import example
from staytuned.data.sides import TEST, TRAIN, VALIDATION
from staytuned.models import find_base
from staytuned.params import Params
from staytuned.stages import encode
from staytuned.start import init
from staytuned.workspace import Workspace

BOUND = 1.3
CALL = 10_000  # rows


def main(rows: int, rounds: int) -> bool:
    """Whether the bound is met."""
    with tempfile.TemporaryDirectory() as scratch:
        workspace = init(Path(scratch) / "workspace")
        params = Params.read(workspace.params)
        texts = list(itertools.islice(varied(example_texts(Path(scratch))), rows))
        write_inputs(workspace, texts)
        tokenizer = Tokenizer.from_file(str(find_base(params.model.base, []) / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(params.encode.max_tokens)
        lists = [texts[start : start + CALL] for start in range(0, rows, CALL)]

        def stage() -> float:
            shutil.rmtree(workspace.pieces, ignore_errors=True)  # or all but the first would be taken from there
            start = time.perf_counter()
            encode.run(workspace, params)
            return time.perf_counter() - start

        def bare(call: Callable[[list[str]], object]) -> float:
            start = time.perf_counter()
            for texts in lists:
                call(texts)
            return time.perf_counter() - start

        slow, fast = tokenizer.encode_batch, tokenizer.encode_batch_fast
        staged, own, own_fast = in_turn(rounds, stage, lambda: bare(slow), lambda: bare(fast))
    print(f"for comparison, over encode_batch_fast, which keeps no offsets: {spread(ratios(staged, own_fast))}")
    return meets(f"encode over encode_batch, {rows:,} rows", ratios(staged, own), BOUND)


def example_texts(folder: Path) -> list[str]:
    """The example's texts."""
    texts = []
    for source in example.FILES:
        with example.fetch(source, folder).open(encoding="utf-8", errors="replace", newline="") as handle:
            texts += [row["text"] for row in csv.DictReader(handle)]
    return texts


def varied(texts: list[str]) -> Iterator[str]:
    """The texts over and over, each time with their words rotated by one more."""
    for turn in itertools.count():
        for text in texts:
            words = text.split()
            place = turn % max(1, len(words))
            yield " ".join(words[place:] + words[:place])


def write_inputs(workspace: Workspace, texts: list[str]) -> None:
    """Accepted rows and their split, as the stages before this one leave them."""
    count = len(texts)
    rows = [f"example:{number}" for number in range(count)]
    sides = list(itertools.islice(itertools.cycle([*[TRAIN] * 19, *[VALIDATION] * 2, *[TEST] * 4]), count))
    accepted = {"row": rows, "text": texts, "label": ["neutral"] * count, "source": ["example"] * count}
    split = {"row": rows, "group": rows, "side": sides}
    for path, columns in ((workspace.accepted, accepted), (workspace.split, split)):
        pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    sys.exit(not main(*(given + [200_000, 7][len(given) :])))
