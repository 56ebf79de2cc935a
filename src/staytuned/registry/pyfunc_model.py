"""The registered model as code: MLflow keeps this file and classifier.py beside the weights, and no pickle."""

from typing import Any

import mlflow
import pandas


class TextClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A frame with a column ``text`` in; its label and one column of probabilities (or logits) a label out."""

    _skip_type_hint_validation = True  # or MLflow warns that there are none; the signature says it all

    def load_context(self, context: Any) -> None:
        """Load the weights; ``classifier`` is the copy of classifier.py that lies beside them."""
        from classifier import Classifier  # type: ignore[import-not-found]

        self.classifier = Classifier(context.artifacts["model"])

    # no type hint on model_input: MLflow would take it for the schema, which is the signature's to give
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Predict; ``params["output"]`` is ``probabilities`` or ``logits``."""
        texts = list(model_input["text"])
        logits = (params or {}).get("output") == "logits"
        labels, values = self.classifier.predict(texts)
        if logits:
            values = self.classifier.logits(texts)
        return pandas.DataFrame({"label": labels} | dict(zip(self.classifier.labels, values.T, strict=True)))


mlflow.models.set_model(TextClassifier())
