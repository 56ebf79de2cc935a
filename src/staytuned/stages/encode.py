"""Encode: text to token ids by the base model's own tokenizer, into one Arrow file a side."""

import hashlib
import math
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from tokenizers import Tokenizer

from staytuned import tasks
from staytuned.data.sides import TEST, TRAIN, VALIDATION
from staytuned.errors import MissingError, ParamsError
from staytuned.files import read_json, replacing, write_json
from staytuned.models import base_of, check_fits, fingerprint
from staytuned.params import Params
from staytuned.pieces import Pieces, made_by, row_groups
from staytuned.progress import track
from staytuned.tasks import Task
from staytuned.workspace import Workspace

CHUNK = 5_000  # rows in memory at a time
SIDES = (TRAIN, VALIDATION, TEST)
KEPT_OUT = len(SIDES)  # the number of no side
SIDE = 0  # column


def run(workspace: Workspace, params: Params) -> None:
    """Write the encoded rows and report rows, tokens and truncations of each side."""
    base, task, tokenizer = fitted(workspace, params)
    accepted = pyarrow.parquet.ParquetFile(workspace.accepted)
    sides = _sides(workspace)
    counts = {side: dict.fromkeys(("rows", "examples", "tokens", "truncated"), 0) for side in SIDES}
    schema = _examples(task, tokenizer, accepted.schema_arrow.empty_table(), sides[:0]).schema.remove(SIDE)
    weights, options = fingerprint(base), [params.section("encode"), params.section("task")]
    made = f"{made_by('stages/encode.py', 'data/conll.py', 'tasks', 'modelling')} {weights} {options}"
    groups, start = row_groups(workspace.accepted), 0
    with ExitStack() as stack:
        pieces = stack.enter_context(Pieces(workspace.pieces / "encoded", made))
        writers = {}
        for side in SIDES:
            temporary = stack.enter_context(replacing(workspace.encoded / f"{side}.arrow"))
            writers[side] = stack.enter_context(pyarrow.ipc.new_stream(str(temporary), schema))
        for number, (digest, rows) in enumerate(track(groups, len(groups), "encoding")):
            here = sides[start : start + rows]
            start += rows
            make = partial(_encoded, task, tokenizer, accepted, number, here)
            table = pieces.get(f"{digest} {hashlib.sha256(here.tobytes()).hexdigest()}", make)
            ends = numpy.searchsorted(table["side"].to_numpy(), range(len(SIDES) + 1))
            for side, first, last in zip(SIDES, ends, ends[1:], strict=False):
                examples = table[first:last].remove_column(SIDE)
                writers[side].write_table(examples)
                for name, count in _counts(examples).items():
                    counts[side][name] += count
    report = {
        "base": {"name": params.model.base, "sha256": weights},
        "max_tokens": params.encode.max_tokens,
        "sides": counts,
    }
    write_json(workspace.reports / "encoding.json", report)


def fitted(workspace: Workspace, params: Params) -> tuple[Path, Task, Tokenizer]:
    """The base model's folder, and the task and its tokenizer, each set to the other.

    Raises:
        MissingError: the base model is nowhere to be found, or has no tokenizer.json.
        ParamsError: it cannot read as many tokens as ``encode.max_tokens``, or is of another kind than the task needs.
    """
    base, task = base_of(workspace, params), tasks.load(params)
    check_fits(base, task.kind, params.task.name, task.kinds)
    tokenizer = _tokenizer(base, params)
    task.read(base)
    task.adapt(tokenizer, params.encode.max_tokens)
    return base, task, tokenizer


def _sides(workspace: Workspace) -> numpy.ndarray:
    """The number of each row's side."""
    names = pyarrow.parquet.read_table(workspace.split, columns=["side"])["side"]
    numbers = pyarrow.compute.index_in(names, pyarrow.array(SIDES))
    sides: numpy.ndarray = pyarrow.compute.fill_null(numbers, KEPT_OUT).to_numpy()
    return sides


def _encoded(
    task: Task, tokenizer: Tokenizer, accepted: pyarrow.parquet.ParquetFile, group: int, sides: numpy.ndarray
) -> pyarrow.Table:
    """The examples of a row group, those of a side together."""
    found, start = [], 0
    for rows in accepted.iter_batches(CHUNK, row_groups=[group]):
        found.append(_examples(task, tokenizer, pyarrow.Table.from_batches([rows]), sides[start : start + len(rows)]))
        start += len(rows)
    table = pyarrow.concat_tables(found)
    return table.take(table["side"].to_numpy().argsort(kind="stable")).combine_chunks()


def _examples(task: Task, tokenizer: Tokenizer, rows: pyarrow.Table, sides: numpy.ndarray) -> pyarrow.Table:
    """The examples of rows that are on a side, with the number of the side first."""
    table = task.encode(tokenizer, rows.to_pandas())
    places = table["place"].combine_chunks()
    table = table.set_column(0, "row", rows["row"].take(places))
    table = table.add_column(SIDE, "side", [sides.take(places.to_numpy())])
    return table.filter(pyarrow.compute.not_equal(table["side"], KEPT_OUT))


def _counts(examples: pyarrow.Table) -> dict[str, int]:
    return {
        "rows": len(examples["row"].unique()),
        "examples": len(examples),
        "tokens": len(pyarrow.compute.list_flatten(examples["input_ids"])),
        "truncated": int(examples["truncated"].to_numpy().sum()),
    }


def _tokenizer(base: Path, params: Params) -> Tokenizer:
    """The base model's own tokenizer."""
    file, limit = base / "tokenizer.json", params.encode.max_tokens
    if not file.is_file():
        raise MissingError(f"{params.model.base!r} (model.base) in {base} has no tokenizer.json; name a model with one")
    most = _most_tokens(base)
    if limit > most:
        raise ParamsError(
            f"encode.max_tokens is {limit}, but {params.model.base!r} (model.base) reads at most {most}; "
            "change one of the two"
        )
    return Tokenizer.from_file(str(file))


def _most_tokens(base: Path) -> float:
    """The longest input of a base model; some have more positions than they can use, and only the tokenizer says so."""
    facts = [read_json(path) for name in ("config.json", "tokenizer_config.json") if (path := base / name).is_file()]
    keys = ("max_position_embeddings", "model_max_length")
    limits: list[float] = [fact[key] for fact in facts for key in keys if key in fact]
    return min(limits, default=math.inf)
