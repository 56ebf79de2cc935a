"""The registered model as code: MLflow keeps this file and the package's source beside the weights, and no pickle."""

from typing import Any

import mlflow
import pandas


class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A frame of rows in; the task's table of predictions out, or what the model said before it was decoded."""

    _skip_type_hint_validation = True  # or MLflow warns that there are none; the signature says it all

    def load_context(self, context: Any) -> None:
        """Load the weights."""
        from staytuned.predictor import Predictor  # here: MLflow runs this file as it registers, without a model

        self.predictor = Predictor(context.artifacts["model"])

    # no type hint on model_input: MLflow would take it for the schema, which is the signature's to give
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Predict; ``params["output"]`` is ``predictions`` or ``outputs``."""
        rows = model_input.reindex(columns=["text", "text_pair", "label"]).astype("object")
        if (params or {}).get("output") == "outputs":
            values = [values.ravel().tolist() for values in self.predictor.outputs(rows)]
            return pandas.DataFrame({"outputs": values})
        return pandas.DataFrame(self.predictor.task.table(self.predictor.predict(rows)))


mlflow.models.set_model(Model())
