"""Encode: text to token ids by the base model's own tokenizer, into one Arrow file a side."""

import itertools
import math
from contextlib import ExitStack
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
from tokenizers import Tokenizer

from staytuned.data.sides import TEST, TRAIN, VALIDATION
from staytuned.errors import MissingError, ParamsError
from staytuned.files import read_json, replacing, write_json
from staytuned.models import find_base, fingerprint
from staytuned.params import Params
from staytuned.progress import track
from staytuned.workspace import Workspace

SCHEMA = pyarrow.schema(
    {
        "row": pyarrow.string(),
        "group": pyarrow.string(),
        "source": pyarrow.string(),
        "label": pyarrow.int16(),
        "input_ids": pyarrow.list_(pyarrow.int32()),
    }
)
CHUNK = 5_000  # rows in memory at a time
SIDES = (TRAIN, VALIDATION, TEST)


def run(workspace: Workspace, params: Params) -> None:
    """Write the encoded rows and report rows, tokens and truncations of each side.

    Raises:
        MissingError: the base model is nowhere to be found, or has no tokenizer.json.
        ParamsError: it cannot read as many tokens as ``encode.max_tokens``.
    """
    base = find_base(params.model.base, [workspace.root / folder for folder in params.model.folders])
    tokenizer = _tokenizer(base, params)
    classes = {label: number for number, label in enumerate(params.task.labels)}
    accepted = pyarrow.parquet.ParquetFile(workspace.accepted)
    split = pyarrow.parquet.ParquetFile(workspace.split)
    counts = {side: dict.fromkeys(("rows", "tokens", "truncated"), 0) for side in SIDES}
    with ExitStack() as stack:
        writers = {}
        for side in SIDES:
            temporary = stack.enter_context(replacing(workspace.encoded / f"{side}.arrow"))
            writers[side] = stack.enter_context(pyarrow.ipc.new_stream(str(temporary), SCHEMA))
        batches = zip(
            accepted.iter_batches(CHUNK, columns=["row", "text", "source", "label"]),
            split.iter_batches(CHUNK, columns=["group", "side"]),
            strict=True,
        )
        for rows, placed in track(batches, -(-accepted.metadata.num_rows // CHUNK), "encoding"):
            ids, truncated = _tokenize(tokenizer, rows["text"].to_pylist(), params.encode.max_tokens)
            labels = pyarrow.array([classes[label] for label in rows["label"].to_pylist()], pyarrow.int16())
            encoded = pyarrow.record_batch([rows["row"], placed["group"], rows["source"], labels, ids], SCHEMA)
            side_of_row = placed["side"].to_numpy(zero_copy_only=False)
            for side in SIDES:
                here = side_of_row == side
                kept = encoded.filter(pyarrow.array(here))
                writers[side].write_batch(kept)
                counts[side]["rows"] += len(kept)
                counts[side]["tokens"] += len(kept["input_ids"].flatten())
                counts[side]["truncated"] += int(truncated[here].sum())
    report = {
        "base": {"name": params.model.base, "sha256": fingerprint(base)},
        "max_tokens": params.encode.max_tokens,
        "sides": counts,
    }
    write_json(workspace.reports / "encoding.json", report)


def _tokenizer(base: Path, params: Params) -> Tokenizer:
    """The base model's own tokenizer, cutting at ``encode.max_tokens``."""
    file, limit = base / "tokenizer.json", params.encode.max_tokens
    if not file.is_file():
        raise MissingError(f"{params.model.base!r} (model.base) in {base} has no tokenizer.json; name a model with one")
    most = _most_tokens(base)
    if limit > most:
        raise ParamsError(
            f"encode.max_tokens is {limit}, but {params.model.base!r} (model.base) reads at most {most}; "
            "change one of the two"
        )
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    return tokenizer


def _most_tokens(base: Path) -> float:
    """The longest input of a base model; some have more positions than they can use, and only the tokenizer says so."""
    facts = [read_json(path) for name in ("config.json", "tokenizer_config.json") if (path := base / name).is_file()]
    keys = ("max_position_embeddings", "model_max_length")
    limits: list[float] = [fact[key] for fact in facts for key in keys if key in fact]
    return min(limits, default=math.inf)


def _tokenize(tokenizer: Tokenizer, texts: list[str], limit: int) -> tuple[pyarrow.Array, numpy.ndarray]:
    """Token ids as a list array, and which texts did not fit."""
    encodings = tokenizer.encode_batch_fast(texts)
    ids = [encoding.ids for encoding in encodings]
    lengths = numpy.fromiter(map(len, ids), numpy.int32, len(ids))
    full = numpy.flatnonzero(lengths == limit)
    truncated = numpy.zeros(len(ids), bool)
    truncated[full] = [bool(encodings[place].overflowing) for place in full]
    offsets = numpy.concatenate([[0], lengths.cumsum()]).astype(numpy.int32)
    flat = numpy.fromiter(itertools.chain.from_iterable(ids), numpy.int32, int(offsets[-1]))
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets), pyarrow.array(flat)), truncated
