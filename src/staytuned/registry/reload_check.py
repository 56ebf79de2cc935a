"""Run as a program, in a fresh process: load a registered model from a folder, offline, without this package.

usage: python -I reload_check.py MODEL_FOLDER TEXTS.json LOGITS.npy
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError("the reloaded model reached for the network")


def main(folder: str, texts: str, logits: str) -> None:
    """Write the logits that the model gives for the texts."""
    sys.modules["staytuned"] = None  # type: ignore[assignment]  # an import of it fails from here on
    os.environ["HF_HUB_OFFLINE"] = "1"
    socket.socket.connect = _refuse  # type: ignore[method-assign]
    import mlflow
    import numpy
    import pandas

    model = mlflow.pyfunc.load_model(folder)
    frame = pandas.DataFrame({"text": json.loads(Path(texts).read_text(encoding="utf-8"))})
    found = model.predict(frame, params={"output": "logits"})
    numpy.save(logits, found.drop(columns="label").to_numpy(numpy.float32), allow_pickle=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
