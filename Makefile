# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: all fmt check test quick demo clean

# Check and test: what a contributor runs.
all: check test

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

# Rewrite the sources in the house format.
fmt: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Read only: format, lint, types.
check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The whole test suite.
test: $(STAMP)
	$(BIN)/python -m pytest

# The tests that take less than a few seconds each.
quick: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

# The main job on real input: workers over ZeroMQ, one of them killed half-way.
demo: $(STAMP)
	$(BIN)/python -m logstore.demo

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
