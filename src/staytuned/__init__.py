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

# How often a thread of torch looks whether the others are done before it sleeps. The 300,000 of GNU's OpenMP keep a
# core for milliseconds, which another program could have used, or the very thread that is waited for.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# numpy's products are small here; in two threads they take many times as long beside another program, and other bits.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
