# make run    build the environment and start the daemon on its built-in configuration
# make test   install what the tests need, and run them all
# make bench  measure, beside what else one would use; see docs/performance.md
# make lint   style and types

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: run test lint bench packages clean

run: $(VENV)/run.stamp
	@exec $(BIN)/jlogd run

test: packages $(VENV)/dev.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: packages $(VENV)/bench.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m bench $(BENCH_ARGS)
	$(if $(BENCH_ARGS),,$(BIN)/python -m bench.vip kernel)
	$(if $(BENCH_ARGS),,$(BIN)/python -m bench.vip failover)

# Debian packages that tests and benchmarks use; without root they are said to be missing, and their tests skipped.
packages:
	@packaging/test-packages

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/run.stamp

$(VENV)/bench.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@ $(VENV)/run.stamp

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
