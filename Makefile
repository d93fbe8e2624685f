# Two commands do all the set-up: `make demo` runs the main job, `make test` runs the tests.
# Both share the virtual environment .venv, which they make when it is missing or out of date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_ARGS ?=
# idle threads that spin slow everything down tenfold as soon as another process wants a core
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-slow check style clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       train a nano Granulon on real images, reload it, ask it, evaluate it (about seven minutes)"
	@echo "make test       run the tests"
	@echo "make test-slow  run the slow ones, too"
	@echo "make check      lint, format check, types"
	@echo "make style      format"

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): torch, transformers, trl, peft and the demo's data (a few minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt torch
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt \
		--editable ".[dev]"
	@touch $@

demo: $(STAMP)
	@$(BIN)/python examples/demo.py $(DEMO_ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest -q

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -q -m "not gpu"

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

style: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info runs
