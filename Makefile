# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install test lint demo demo-seeds bench-tasks clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ceag needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[demo,test,lint]'
	touch $@

test: install
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/digits/demo.sh

# Longer checks; their results are in docs/benchmarks.md.

demo-seeds: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/digits/seeds.sh demo/seeds

bench-tasks: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/benchmarks/two_tasks.sh demo/two-tasks

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
