"""The registered model as code: MLflow keeps this file and classifier.py beside the weights, and no pickle."""

from typing import Any

import mlflow
import pandas


class TextClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A frame with a column ``text`` in; its label and one column of probabilities (or logits) a label out."""

    def load_context(self, context: Any) -> None:
        """Load the weights; ``classifier`` is the copy of classifier.py that lies beside them."""
        from classifier import Classifier  # type: ignore[import-not-found]

        self.classifier = Classifier(context.artifacts["model"])

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """Predict; ``params["output"]`` is ``probabilities`` or ``logits``."""
        texts = list(model_input["text"])
        logits = (params or {}).get("output") == "logits"
        labels, values = self.classifier.predict(texts)
        if logits:
            values = self.classifier.logits(texts)
        return pandas.DataFrame({"label": labels} | dict(zip(self.classifier.labels, values.T, strict=True)))


mlflow.models.set_model(TextClassifier())
