"""staytuned keeps a fine-tuned language model good while its data drifts."""

import os

# The tools' own usage reporting is off unless the user turns it on. They read this as they are imported.
for _name, _value in {
    "DO_NOT_TRACK": "true",  # Prefect, MLflow, the Hugging Face hub
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}.items():
    os.environ.setdefault(_name, _value)
