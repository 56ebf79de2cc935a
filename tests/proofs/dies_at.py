"""``staytuned WORDS``, killed by SIGKILL just before or after one call.

usage: python dies_at.py POINT before|after process|group WORDS...

POINT is ``module:function`` or ``module:Class.method``, with ``(text)`` behind it where only a call with that text
among its arguments counts.
"""

import functools
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

from staytuned import cli


def die(whole_group: bool) -> None:
    """As a lack of memory or a power cut ends it: no handler runs."""
    (os.killpg if whole_group else os.kill)(os.getpid(), signal.SIGKILL)  # it leads its group


def dying(function: Callable[..., Any], text: str | None, after: bool, whole_group: bool) -> Callable[..., Any]:
    """The function, as the last that is called."""

    @functools.wraps(function)
    def call(*args: Any, **facts: Any) -> Any:
        here = text is None or text in args
        if here and not after:
            die(whole_group)
        result = function(*args, **facts)
        if here:
            die(whole_group)
        return result

    return call


def main() -> int:
    """Run the command."""
    point, when, who, *words = sys.argv[1:]
    found = re.fullmatch(r"([\w.]+):([\w.]+)(?:\((\w+)\))?", point)
    assert found, point
    module, path, text = found.groups()
    *owners, name = path.split(".")
    place = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(place, name, dying(getattr(place, name), text, when == "after", who == "group"))
    sys.argv = ["staytuned", *words]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
