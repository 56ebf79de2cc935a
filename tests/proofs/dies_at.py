"""``staytuned WORDS``, killed by SIGKILL just before or after one call, or left without room on the disk.

usage: python dies_at.py POINT before|after process|group|FILE WORDS...

POINT is ``module:function`` or ``module:Class.method``, with ``(text)`` behind it where only a call with that text
among its arguments counts. FILE is made as large as its disk allows; the command goes on.
"""

import functools
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from staytuned import cli


def strike(how: str) -> None:
    """Kill, as a lack of memory or a power cut does: no handler runs. Or fill the disk."""
    if how not in ("process", "group"):
        fill(Path(how))
    else:
        (os.killpg if how == "group" else os.kill)(os.getpid(), signal.SIGKILL)  # it leads its group


def fill(file: Path) -> None:
    """Let the file grow until no byte can be written to its disk."""
    with file.open("ab", buffering=0) as handle, suppress(OSError):
        while handle.write(bytes(2**20)):
            pass


def struck(function: Callable[..., Any], text: str | None, after: bool, how: str) -> Callable[..., Any]:
    """The function, as the last that is called with room and alive."""

    @functools.wraps(function)
    def call(*args: Any, **facts: Any) -> Any:
        here = text is None or text in args
        if here and not after:
            strike(how)
        result = function(*args, **facts)
        if here and after:
            strike(how)
        return result

    return call


def main() -> int:
    """Run the command."""
    point, when, how, *words = sys.argv[1:]
    found = re.fullmatch(r"([\w.]+):([\w.]+)(?:\((\w+)\))?", point)
    assert found, point
    module, path, text = found.groups()
    *owners, name = path.split(".")
    place = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(place, name, struck(getattr(place, name), text, when == "after", how))
    sys.argv = ["staytuned", *words]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
