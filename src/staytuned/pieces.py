"""The piece store: arrays that were dear to make, kept beside the outputs and verified when read.

A piece lies outside what DVC tracks. One that is torn, or made from something else, is made again: it never changes
what a stage says, only how long it takes.
"""

import hashlib
import io
from pathlib import Path

import numpy

from staytuned.files import replacing

Arrays = dict[str, numpy.ndarray]
DIGEST = hashlib.sha256().digest_size


def read_piece(path: Path, key: str) -> Arrays | None:
    """The arrays of a piece; None where there is none, where it is not whole, or where its key is another.

    Args:
        path: The file.
        key: What the arrays were made from, in any words.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(key.encode() + content[DIGEST:]).digest() != content[:DIGEST]:
        return None
    with numpy.load(io.BytesIO(content[DIGEST:]), allow_pickle=False) as arrays:
        return dict(arrays)


def write_piece(path: Path, key: str, arrays: Arrays) -> None:
    """Keep arrays of numbers or text, whole or not at all."""
    held = io.BytesIO()
    numpy.savez(held, allow_pickle=False, **arrays)
    content = held.getvalue()
    with replacing(path) as temporary:
        temporary.write_bytes(hashlib.sha256(key.encode() + content).digest() + content)
