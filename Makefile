# make run, make test, make ui: the README says what they do.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
RUN := $(BIN)/staytuned

.PHONY: run test check ui lock image bench clean

run: $(INSTALLED)
	@$(RUN) run

$(INSTALLED): requirements.lock pyproject.toml
	@echo "installing the locked dependencies into $(VENV) (about 2 GB; once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

ui: $(INSTALLED)
	@$(RUN) ui

lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --all-extras --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links \
	  --no-header --no-annotate --output-file requirements.lock pyproject.toml
	sed -i 's/^torch==\([0-9.]*\).*/torch==\1/' requirements.lock

clean:
	rm -rf $(VENV)
