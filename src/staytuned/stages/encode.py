"""Encode: text to token ids by the base model's own tokenizer, into one Arrow file a side."""

import math
from contextlib import ExitStack
from pathlib import Path

import pyarrow
import pyarrow.compute
import pyarrow.parquet
from tokenizers import Tokenizer

from staytuned import tasks
from staytuned.data.sides import TEST, TRAIN, VALIDATION
from staytuned.errors import MissingError, ParamsError
from staytuned.files import read_json, replacing, write_json
from staytuned.models import check_fits, find_base, fingerprint
from staytuned.params import Params
from staytuned.progress import track
from staytuned.workspace import Workspace

CHUNK = 5_000  # rows in memory at a time
SIDES = (TRAIN, VALIDATION, TEST)


def run(workspace: Workspace, params: Params) -> None:
    """Write the encoded rows and report rows, tokens and truncations of each side.

    Raises:
        MissingError: the base model is nowhere to be found, or has no tokenizer.json.
        ParamsError: it cannot read as many tokens as ``encode.max_tokens``, or is of another kind than the task needs.
    """
    base = find_base(params.model.base, [workspace.root / folder for folder in params.model.folders])
    task, tokenizer = tasks.load(params), _tokenizer(base, params)
    check_fits(base, task.kind, params.task.name)
    accepted = pyarrow.parquet.ParquetFile(workspace.accepted)
    split = pyarrow.parquet.ParquetFile(workspace.split)
    counts = {side: dict.fromkeys(("rows", "examples", "tokens", "truncated"), 0) for side in SIDES}
    task.read(base)
    task.adapt(tokenizer, params.encode.max_tokens)
    schema = task.encode(tokenizer, accepted.schema_arrow.empty_table().to_pandas()).schema
    schema = schema.remove(schema.get_field_index("place")).insert(0, pyarrow.field("row", pyarrow.string()))
    with ExitStack() as stack:
        writers = {}
        for side in SIDES:
            temporary = stack.enter_context(replacing(workspace.encoded / f"{side}.arrow"))
            writers[side] = stack.enter_context(pyarrow.ipc.new_stream(str(temporary), schema))
        batches = zip(accepted.iter_batches(CHUNK), split.iter_batches(CHUNK, columns=["side"]), strict=True)
        for rows, placed in track(batches, -(-accepted.metadata.num_rows // CHUNK), "encoding"):
            table = task.encode(tokenizer, rows.to_pandas())
            places = table["place"].combine_chunks()
            table = table.set_column(0, "row", rows["row"].take(places))
            side_of_example = placed["side"].take(places)
            for side in SIDES:
                kept = table.filter(pyarrow.compute.equal(side_of_example, side))
                writers[side].write_table(kept.combine_chunks())
                for name, count in _counts(kept).items():
                    counts[side][name] += count
    report = {
        "base": {"name": params.model.base, "sha256": fingerprint(base)},
        "max_tokens": params.encode.max_tokens,
        "sides": counts,
    }
    write_json(workspace.reports / "encoding.json", report)


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
