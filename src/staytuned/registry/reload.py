"""The proof of a registered version: it is loaded offline in a fresh process, elsewhere, before it is promoted."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import TYPE_CHECKING, Any

from staytuned.errors import RegistryError
from staytuned.registry.versions import Registry

if TYPE_CHECKING:
    from pandas import DataFrame

Reload = Callable[[int, "DataFrame"], Any]


@contextmanager
def reloader(registry: Registry, threads: int) -> Iterator[Reload]:
    """What loads a registered version offline in a fresh process, elsewhere, by the version's own code.

    A process starts here, and imports what it needs while the caller does other work. The function that the block
    gets takes a version and rows, and returns the version's outputs, flat.

    Raises:
        RegistryError: in that function: the version cannot be loaded there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        check = shutil.copy(Path(__file__).with_name("reload_check.py"), folder)
        command = [sys.executable, "-I", check, "rows.json", "outputs.npy"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}

        def start() -> Popen[str]:
            return Popen(command, cwd=folder, env=environment, text=True, stdin=PIPE, stdout=DEVNULL, stderr=PIPE)

        waiting = [start()]

        def reload(version: int, rows: "DataFrame") -> Any:
            import numpy

            with waiting.pop() if waiting else start() as process:  # each is for one version
                model = registry.fetch(version, folder / "model")
                rows.to_json(folder / "rows.json", orient="records")
                said = process.communicate(f"{model}\n")[1]
            if process.returncode:
                raise RegistryError(f"version {version} does not load in a fresh process:\n{said[-2000:]}")
            return numpy.load(folder / "outputs.npy", allow_pickle=False)

        try:
            yield reload
        finally:
            for process in waiting:
                process.kill()
                process.communicate()
