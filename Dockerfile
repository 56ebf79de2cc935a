# The program in /opt/staytuned, a workspace in /workspace; how to use it: docs/how-to/docker.md.
# BASE: any image with useradd and a python3.11 that has venv.
ARG BASE=python:3.11-slim
FROM ${BASE}

ARG USER_ID=1000
RUN useradd --create-home --uid ${USER_ID} staytuned \
 && install --directory --owner staytuned /workspace
ENV PATH=/opt/staytuned/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/workspace/var/huggingface

# The dependencies are a layer of their own, built again only when the lock changes.
# The secret, if one is given, is how pip finds its index here; no layer keeps it.
COPY requirements.lock /opt/source/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf,mode=0444 \
    python3.11 -m venv /opt/staytuned \
 && python -m pip install --quiet --no-cache-dir --disable-pip-version-check --requirement /opt/source/requirements.lock

COPY --chown=staytuned . /opt/source
RUN python -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation /opt/source

# A workspace without the source: when a newer image meets a volume of an older one, code.yaml shows DVC what changed.
USER staytuned
WORKDIR /workspace
RUN staytuned init /workspace && cp /opt/source/params.yaml /opt/source/behaviour.yaml /workspace/

ENTRYPOINT ["staytuned"]
CMD ["run"]
