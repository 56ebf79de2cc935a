# make run, make test, make ui, make demo: the README says what they do.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
RUN := $(BIN)/staytuned
# make image: docker where its daemon answers, else buildah
BUILDER ?= $(shell docker info >/dev/null 2>&1 && echo docker || echo buildah)
BASE ?= python:3.11-slim
IMAGE ?= staytuned
BUILD_FLAGS ?=
KILLS ?= 50

.PHONY: run test test-slow check ui demo backtest lock image bench benchmark-training benchmark-sweep kill-training kill-loop disk-full watch-proof clean

run: $(INSTALLED)
	@$(RUN) run

$(INSTALLED): requirements.lock pyproject.toml
	@echo "installing the locked dependencies into $(VENV) (about 2 GB; once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow"

# whole roads one after the other, kills, races, schedules
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# one claim after the other; fails at the end if a bound was not met
bench: $(INSTALLED)
	@failed=0; for claim in startup nothing_to_do orchestration encode memory; do \
	  $(BIN)/python benchmarks/$$claim.py || failed=1; done; exit $$failed

# training killed 200 times at random instants, on the tiny model of the tests; minutes
kill-training: $(INSTALLED)
	$(BIN)/python tests/proofs/kill_training.py

# SIGKILL at every boundary and at KILLS random instants; an hour, but it goes on where it was
kill-loop: $(INSTALLED)
	$(BIN)/python tests/proofs/kill_loop.py kill-loop --kills $(KILLS)

# the disk full at every boundary; a quarter of an hour, and a Linux where unshare may mount
disk-full: $(INSTALLED)
	$(BIN)/python tests/proofs/disk_full.py

# a run by cron on a standing Prefect server; some minutes
watch-proof: $(INSTALLED)
	$(BIN)/python tests/proofs/by_cron.py

# training beside transformers' Trainer, on a folder of public data: make benchmark-training DATA=FOLDER
benchmark-training: $(INSTALLED)
	$(BIN)/python benchmarks/training.py $(DATA)

# the same, each side at its best; an hour, but it goes on where it was: make benchmark-sweep DATA=FOLDER
benchmark-sweep: $(INSTALLED)
	$(BIN)/python benchmarks/sweep.py $(DATA) benchmark-sweep

# twelve arrivals of the example in a workspace of their own
demo: $(INSTALLED)
	@$(RUN) demo

# the same, longer, under several policies; hours, but it goes on where it was
backtest: $(INSTALLED)
	$(BIN)/python benchmarks/backtest.py backtest

ui: $(INSTALLED)
	@$(RUN) ui

lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --all-extras --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links \
	  --no-header --no-annotate --output-file requirements.lock pyproject.toml
	sed -i 's/^torch==\([0-9.]*\).*/torch==\1/' requirements.lock

image:
	@command -v $(firstword $(BUILDER)) >/dev/null || \
	  { echo "error: no docker daemon answers and there is no $(BUILDER); start docker or install buildah" >&2; exit 1; }
	BUILDAH_LAYERS=true $(BUILDER) build --build-arg BASE=$(BASE) --tag $(IMAGE) $(BUILD_FLAGS) .

clean:
	rm -rf $(VENV)
