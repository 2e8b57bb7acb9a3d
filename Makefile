# make run    build the environment and start the daemon on its built-in configuration
# make test   install what the tests need, and run them all
# make soak   kill, pause, fill and take over a running daemon for MINUTES, and count; see tests/soak.py
# make fuzz   fuzz every parser for ever, or only TARGET; see tests/fuzz/run.py
# make bench  measure, beside what else one would use; see docs/performance.md
# make lint   style and types

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST_ARGS ?=
MINUTES ?= 60
TARGET  ?= $(basename $(notdir $(wildcard tests/fuzz/corpus/*)))
# Runs of one target before the next has its turn.
FUZZ_RUNS ?= 200000

.PHONY: run test lint bench soak fuzz packages clean

run: $(VENV)/run.stamp
	@exec $(BIN)/jlogd run

test: packages $(VENV)/dev.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(VENV)/dev.stamp
	$(BIN)/python tests/soak.py --minutes $(MINUTES)

fuzz: $(VENV)/dev.stamp
	while for target in $(TARGET); do \
		$(BIN)/python tests/fuzz/run.py $$target -runs=$(FUZZ_RUNS) || exit 1; done; do :; done

bench: packages $(VENV)/bench.stamp
	@packaging/bench-syslog-ng var/bench/syslog-ng
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m bench $(BENCH_ARGS)
	$(if $(BENCH_ARGS),,$(BIN)/python -m bench counts)
	$(if $(BENCH_ARGS),,$(BIN)/python -m bench.vip kernel)
	$(if $(BENCH_ARGS),,$(BIN)/python -m bench.vip scale)
	$(if $(BENCH_ARGS),,$(BIN)/python -m bench.vip failover)

# Debian packages that tests and benchmarks use; without root they are said to be missing, and their tests skipped.
packages:
	@packaging/test-packages

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable . --config-settings editable_mode=compat
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]' --config-settings editable_mode=compat
	@touch $@ $(VENV)/run.stamp

$(VENV)/bench.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]' --config-settings editable_mode=compat
	@touch $@ $(VENV)/run.stamp

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
