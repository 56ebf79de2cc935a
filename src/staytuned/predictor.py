"""A trained model out of its folder: rows in, predictions out. The registered model carries this package's source."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pandas
from safetensors.torch import load_file
from tokenizers import Tokenizer

from staytuned.entry_points import class_at
from staytuned.files import read_json
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone, load_weights

if TYPE_CHECKING:
    from staytuned.tasks import Task


class Predictor:
    """From a folder with staytuned.json, config.json, model.safetensors and tokenizer.json."""

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        about = read_json(folder / "staytuned.json")
        made = class_at(about["class"])
        self.task: Task = made(made.Options.model_validate(about["task"]))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.task.read(folder)
        self.task.adapt(self.tokenizer, about["max_tokens"])
        self.model = self.task.model(backbone(self.task.kind, folder, 0.0, pretrained=False), 0.0).eval()
        load_weights(self.model, load_file(folder / "model.safetensors"))

    def examples(self, frame: pandas.DataFrame) -> Examples:
        """The rows of a frame, encoded."""
        table = self.task.encode(self.tokenizer, frame)
        return Examples(table.append_column("row", table["place"].cast("string")))

    def outputs(self, frame: pandas.DataFrame) -> list[numpy.ndarray]:
        """What the model says of each example of the rows, before it is decoded."""
        return self.task.outputs_of(self.model, self.examples(frame))

    def predict(self, frame: pandas.DataFrame) -> list[Any]:
        """The prediction for each row."""
        return self.task.predict(self.model, self.tokenizer, frame, self.examples(frame))


def frame_of(texts: list[str], pairs: Sequence[str | None] | None = None) -> pandas.DataFrame:
    """Rows to predict."""
    none = [None] * len(texts)
    return pandas.DataFrame({"text": texts, "text_pair": pairs or none, "label": none}, dtype="object")
