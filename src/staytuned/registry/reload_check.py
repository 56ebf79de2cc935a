"""Run as a program, in a fresh process: load a registered model from a folder, offline, by the code that it carries.

usage: echo MODEL_FOLDER | python -I reload_check.py ROWS.json OUTPUTS.npy

It imports what is dear while it waits for the folder's name, so that it can be started while the model is registered;
when whoever would say it is gone, it ends at once.
"""

import gc
import os
import socket
import sys
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError("the reloaded model reached for the network")


def _hear(heard: "SimpleQueue[str]") -> None:
    folder = sys.stdin.readline().strip()
    if not folder:
        os._exit(0)
    heard.put(folder)


def main(rows: str, outputs: str) -> None:
    """Write what the model says of the rows, flat; without a folder, nothing.

    Raises:
        ImportError: it was run by code that lies elsewhere.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    socket.socket.connect = _refuse  # type: ignore[method-assign]
    heard: SimpleQueue[str] = SimpleQueue()
    Thread(target=_hear, args=(heard,), daemon=True).start()
    import mlflow
    import numpy
    import pandas
    from transformers import PreTrainedModel  # noqa: F401 - the model needs it, and torch

    folder = heard.get()
    model = mlflow.pyfunc.load_model(folder, suppress_warnings=True)  # no search of all packages
    code = Path(str(sys.modules["staytuned"].__file__))
    if not code.is_relative_to(folder):
        raise ImportError(f"the model was run by {code}, not by the code that it carries")
    found = model.predict(pandas.read_json(rows, orient="records", dtype=False), params={"output": "outputs"})
    numpy.save(outputs, numpy.concatenate([numpy.float32(one) for one in found["outputs"]]), allow_pickle=False)
    gc.freeze()  # or Python would look through all that was imported once more, for a second, while the caller waits


if __name__ == "__main__":
    main(*sys.argv[1:])
